"""Eight numbers at a time: a vector type for numba, with the few operations that the attention kernel needs.

Written on vectors, the compiled code does not depend on what a compiler finds out about loops and aliases: every
operator below is one machine instruction (or two, where registers are short).

    load(a, i)   a[i : i + 8]            store(a, i, x)
    x + y   x - y   x * y   x / y        fma(x, y, z) = x·y + z               peak(x, y)   the larger, lane by lane
    total(x), lowest(x)   sum and minimum over the lanes, numbers
    exp(x)       relative error below 2e-7 (float32) and 1e-15 (float64); exponents below EXP_FLOOR count as it

Several vectors, as many as the tuple ``rows`` is long, are one value, so that their sums stay in registers together;
a single vector next to them stands for each of them.

    loads(a, i, step, rows)   vectors at i, i + step, …          stores(a, i, step, x)       zeros(a, rows)
    dot(x, y, z) = z + the sum of x·y over the vectors           highest(x)   the largest of the vectors, lane by lane
"""

import functools
import inspect
import math
import operator
from decimal import Decimal

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

# Sixteen, on a processor with AVX-512, were 1.2 times as fast for the released network: fast on 28 pixels (1.3 to 1.4),
# slow on the small maps behind them, whose rows don't fill a vector.
WIDTH = 8
LLVM = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
INTEGER = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
EXP_FLOOR = {types.float32: -87.0, types.float64: -707.0}
MANTISSA = {types.float32: 23, types.float64: 52}
DEGREE = {types.float32: 5, types.float64: 11}  # of the polynomial for exp on ±ln(2)/2


def compiled(function):
    """A function for other compiled functions; unwrapped first, since the shape checks of the tests wrap all."""
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(inspect.unwrap(function))


def entry(function):
    """A function called from Python, kept on disk where numba finds a folder (NUMBA_CACHE_DIR names one)."""
    options = {"nogil": True, "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(inspect.unwrap(function))
    except RuntimeError:  # no folder that can be written to
        return njit(**options)(inspect.unwrap(function))


class Lanes(types.Type):
    """The type of some vectors of eight numbers of one dtype."""

    def __init__(self, dtype, rows=1):
        self.dtype, self.rows = dtype, rows
        super().__init__(name=f"Lanes({dtype}, {rows})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(LLVM[kind.dtype], WIDTH * kind.rows))


def _lanes(builder, x, lanes):
    """The numbers of x at ``lanes``."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), mask)


def _rows(builder, x):
    """x as single vectors."""
    return [_lanes(builder, x, range(i, i + WIDTH)) for i in range(0, x.type.count, WIDTH)]


def _joined(builder, parts):
    """Two, four, … equal vectors as one."""
    while len(parts) > 1:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [builder.shuffle_vector(*pair, mask) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _even(builder, *args):
    """All as long as the longest."""
    length = max(x.type.count for x in args)
    return [x if x.type.count == length else _lanes(builder, x, [*range(WIDTH)] * (length // WIDTH)) for x in args]


def _arithmetic(symbol, instruction):
    """Let numba type and compile ``symbol`` between two values."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and all(isinstance(x, Lanes) for x in args):
                return signature(max(args, key=lambda x: x.rows), *args)

    infer_global(symbol)(Template)
    lower_builtin(symbol, Lanes, Lanes)(
        lambda context, builder, sig, args: getattr(builder, instruction)(*_even(builder, *args))
    )


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)


def _pointer(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _multiply_add(builder, *args):
    args = _even(builder, *args)
    kind = args[0].type
    name = f"llvm.fmuladd.v{kind.count}f{32 if kind.element == ir.FloatType() else 64}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, args)


def _larger(builder, *args):
    x, y = _even(builder, *args)
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def loads(typing, array, index, step, rows):
    def build(context, builder, sig, args):
        vector, parts = ir.VectorType(LLVM[array.dtype], WIDTH), []
        for row in range(len(rows)):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, row)))
            pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], at), vector.as_pointer())
            parts.append(builder.load(pointer))
            parts[-1].align = array.dtype.bitwidth // 8
        return _joined(builder, parts)

    return Lanes(array.dtype, len(rows))(array, types.intp, types.intp, rows), build


@intrinsic
def stores(typing, array, index, step, x):
    def build(context, builder, sig, args):
        for row, part in enumerate(_rows(builder, args[3])):
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, row)))
            pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], at), part.type.as_pointer())
            builder.store(part, pointer).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, x), build


@intrinsic
def zeros(typing, array, rows):
    def build(context, builder, sig, args):
        return ir.Constant(ir.VectorType(LLVM[array.dtype], WIDTH * len(rows)), [0.0] * (WIDTH * len(rows)))

    return Lanes(array.dtype, len(rows))(array, rows), build


@compiled
def load(array, index):
    return loads(array, index, 0, (0,))


@compiled
def store(array, index, x):
    stores(array, index, 0, x)


@intrinsic
def fma(typing, x, y, z):
    def build(context, builder, sig, args):
        return _multiply_add(builder, *args)

    return max(x, y, z, key=lambda kind: kind.rows)(x, y, z), build


@intrinsic
def dot(typing, x, y, z):
    def build(context, builder, sig, args):
        result = args[2]
        for pair in zip(*(_rows(builder, factor) for factor in args[:2]), strict=True):
            result = _multiply_add(builder, *pair, result)
        return result

    return z(x, y, z), build


@intrinsic
def peak(typing, x, y):
    def build(context, builder, sig, args):
        return _larger(builder, *args)

    return max(x, y, key=lambda kind: kind.rows)(x, y), build


@intrinsic
def highest(typing, x):
    def build(context, builder, sig, args):
        return functools.reduce(functools.partial(_larger, builder), _rows(builder, args[0]))

    return Lanes(x.dtype)(x), build


def _reduce(builder, x, combine):
    """All lanes combined into one number."""
    parts = [builder.extract_element(x, ir.IntType(32)(lane)) for lane in range(WIDTH)]
    while len(parts) > 1:
        parts = [combine(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic
def total(typing, x):
    def build(context, builder, sig, args):
        return _reduce(builder, args[0], builder.fadd)

    return x.dtype(x), build


@intrinsic
def lowest(typing, x):
    def build(context, builder, sig, args):
        smaller = lambda a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b)  # noqa: E731
        return _reduce(builder, args[0], smaller)

    return x.dtype(x), build


def _polynomial(degree: int) -> list[float]:
    """Coefficients, highest first, of the Chebyshev interpolation of exp on ±ln(2)/2."""
    half = math.log(2) / 2
    fit = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp, degree, domain=[-half, half])
    return [float(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef[::-1]]


@intrinsic
def exp(typing, x):
    """2ⁿ·exp(r) with n the integer nearest to x / ln 2: a polynomial for exp(r), and n added to the exponent bits.

    Adding 1.5·2^mantissa rounds to an integer and leaves it in the low bits.
    """
    kind, integer, bits = LLVM[x.dtype], INTEGER[x.dtype], MANTISSA[x.dtype]
    numpy_type = np.float32 if bits == 23 else np.float64
    coarse = round(math.log(2) * 2**13) / 2**13  # few bits, so that n·coarse is exact
    fine = float(Decimal(2).ln() - Decimal(coarse))

    def build(context, builder, sig, args):
        count = args[0].type.count
        integers = ir.VectorType(integer, count)
        constant = lambda type, value: ir.Constant(ir.VectorType(type, count), [value] * count)  # noqa: E731
        number = lambda value: constant(kind, float(numpy_type(value)))  # noqa: E731
        bounded = _larger(builder, args[0], number(EXP_FLOOR[x.dtype]))
        magic = number(1.5 * 2.0**bits)
        shifted = _multiply_add(builder, bounded, number(1 / math.log(2)), magic)
        whole = builder.fsub(shifted, magic)
        rest = _multiply_add(builder, whole, number(-coarse), bounded)
        rest = _multiply_add(builder, whole, number(-fine), rest)
        first, *others = _polynomial(DEGREE[x.dtype])
        result = number(first)
        for coefficient in others:
            result = _multiply_add(builder, result, rest, number(coefficient))
        exponent = builder.shl(builder.bitcast(shifted, integers), constant(integer, bits))
        return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), args[0].type)

    return x(x), build
