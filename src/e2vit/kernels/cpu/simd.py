"""Eight numbers at a time: a vector type for numba, with the few operations that the attention kernel needs.

Written on vectors, the compiled code does not depend on what a compiler finds out about loops and aliases: every
operator below is one machine instruction (or two, where registers are short).

    load(a, i)   a[i : i + 8]            fill(a, i)   a[i] eight times        zero(a)   eight zeros
    x + y   x - y   x * y   x / y        fma(x, y, z) = x·y + z               peak(x, y)   the larger, lane by lane
    store(a, i, x)                       total(x), lowest(x)   sum and minimum over the lanes, numbers
    exp(x)       relative error below 2e-7 (float32) and 1e-15 (float64); exponents below EXP_FLOOR count as it
"""

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
SUFFIX = {types.float32: f"v{WIDTH}f32", types.float64: f"v{WIDTH}f64"}
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
    """The type of eight numbers of one dtype."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(LLVM[kind.dtype], WIDTH))


def _arithmetic(symbol, instruction):
    """Let numba type and compile ``symbol`` between two vectors."""

    class Template(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)

    infer_global(symbol)(Template)
    lower_builtin(symbol, Lanes, Lanes)(lambda context, builder, sig, args: getattr(builder, instruction)(*args))


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


def _splat(kind, number):
    return ir.Constant(ir.VectorType(kind, WIDTH), [number] * WIDTH)


def _call(builder, name, result, args):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [arg.type for arg in args]), name)
    return builder.call(function, args)


@intrinsic
def load(typing, array, index):
    def build(context, builder, sig, args):
        vector = ir.VectorType(LLVM[array.dtype], WIDTH)
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], *args), vector.as_pointer())
        loaded = builder.load(pointer)
        loaded.align = array.dtype.bitwidth // 8
        return loaded

    return Lanes(array.dtype)(array, types.intp), build


@intrinsic
def store(typing, array, index, x):
    def build(context, builder, sig, args):
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], *args[:2]), args[2].type.as_pointer())
        builder.store(args[2], pointer).align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.none(array, types.intp, x), build


@intrinsic
def fill(typing, array, index):
    def build(context, builder, sig, args):
        number = builder.load(_pointer(context, builder, sig.args[0], *args))
        vector = ir.VectorType(number.type, WIDTH)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), everywhere)

    return Lanes(array.dtype)(array, types.intp), build


@intrinsic
def zero(typing, array):
    def build(context, builder, sig, args):
        return _splat(LLVM[array.dtype], 0.0)

    return Lanes(array.dtype)(array), build


@intrinsic
def fma(typing, x, y, z):
    def build(context, builder, sig, args):
        return _call(builder, f"llvm.fmuladd.{SUFFIX[x.dtype]}", args[0].type, args)

    return x(x, x, x), build


def _larger(builder, x, y):
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def peak(typing, x, y):
    def build(context, builder, sig, args):
        return _larger(builder, *args)

    return x(x, x), build


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
        vector, integers = args[0].type, ir.VectorType(integer, WIDTH)
        multiply_add = lambda *terms: _call(builder, f"llvm.fmuladd.{SUFFIX[x.dtype]}", vector, terms)  # noqa: E731
        number = lambda value: _splat(kind, float(numpy_type(value)))  # noqa: E731
        bounded = _larger(builder, args[0], number(EXP_FLOOR[x.dtype]))
        magic = number(1.5 * 2.0**bits)
        shifted = multiply_add(bounded, number(1 / math.log(2)), magic)
        whole = builder.fsub(shifted, magic)
        rest = multiply_add(whole, number(-coarse), bounded)
        rest = multiply_add(whole, number(-fine), rest)
        first, *others = _polynomial(DEGREE[x.dtype])
        result = number(first)
        for coefficient in others:
            result = multiply_add(result, rest, number(coefficient))
        exponent = builder.shl(builder.bitcast(shifted, integers), _splat(integer, bits))
        return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), vector)

    return x(x), build
