"""Numbers: what holds for any group, size, window and precision, drawn at random.

The bounds are relative to the largest number of each tensor: ten to the minus ten in float64, and in single and half
precision what the rounding of inputs and sums explains.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_kernels import BACKENDS, drawn, largest_error, whole, with_gradients

from conftest import conjugated, relabeled
from e2vit.actions import equivariance_error, exact_elements
from e2vit.groups import cyclic, dihedral
from e2vit.layers import GroupConv, GroupSelfAttention, LiftingConv, LocalGroupSelfAttention
from e2vit.testing import randomized

BACKENDS = BACKENDS | {"reference": whole}
BOUNDS = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 5e-2}
EACH_GROUP = [cyclic(n) for n in (1, 2, 3, 4, 8)] + [dihedral(n) for n in (1, 2, 3, 4)]
SEEDS = st.integers(0, 2**32 - 1)


def in_any_order(group):
    """The group with its elements in any order, seen from turned axes: a group is what its matrices are."""
    degrees = st.sampled_from([0.0, 10.0, 22.5, 45.0, 90.0])
    return st.builds(lambda degrees, seed: relabeled(conjugated(group, degrees), seed), degrees, st.integers(0, 999))


GROUPS = st.sampled_from(EACH_GROUP).flatmap(in_any_order)


def tries(count: int):
    """Random cases, the same ones in every run, and without a limit on the time of a single one."""
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


@st.composite
def kernel_cases(draw):
    """Inputs and options of the kernels, of sizes that have nothing to do with one another."""
    batch, heads, d, e, outputs, queries, poses, height, width, entries = (
        draw(st.integers(1, high)) for high in (2, 2, 5, 5, 4, 4, 5, 4, 9, 6)
    )
    side, generator = draw(st.sampled_from([1, 3, 5])), torch.Generator().manual_seed(draw(SEEDS))
    diagonal, own = draw(st.booleans()), heads if draw(st.booleans()) else 1
    queries = outputs if diagonal else queries
    sizes = batch, heads, d, e, outputs, queries, poses, side, height, width, own, entries
    (q, *others), table = drawn(generator, *sizes)
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(side**2, generator=generator) < 0.6
        mask[side**2 // 2] = True  # the middle: at the border, the others may all lie outside
    options = {"table": table, "mask": mask, "diagonal": diagonal}
    return [q * draw(st.sampled_from([0.1, 1.0, 3.0])), *others], options


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_is_the_reference_in_double_precision(backend, dtype):
    @tries(60)
    @given(kernel_cases())
    def check(case):
        inputs, options = case
        inputs = [x.to(dtype) for x in inputs]  # what is rounded before is no error of the layer
        expected = with_gradients(whole, [x.double() for x in inputs], options)
        found = with_gradients(BACKENDS[backend], inputs, options)
        assert all(x.dtype == dtype and x.isfinite().all() for x in found)
        assert largest_error(found, expected) < BOUNDS[dtype]
        again = with_gradients(BACKENDS[backend], inputs, options)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))

    check()


def attention(group, draw, **options):
    return {
        "group": group,
        "channels": draw(st.integers(1, 3)),
        "heads": draw(st.integers(1, 2)),
        "head_dim": draw(st.integers(2, 4)),
        "query_pose": draw(st.sampled_from(["sum", "diagonal"])),
        "lifting": draw(st.booleans()),
        **options,
    }


def exact(group, side):
    """The elements that permute the pixels of a map: all where it is one pixel."""
    return list(range(group.order)) if side == 1 else exact_elements(group)


def global_attention(group, draw, side):
    options = attention(group, draw)
    return GroupSelfAttention(**options), options


def local_attention(backend):
    def make(group, draw, side):
        window, shape = draw(st.sampled_from([1, min(side, 3)])), draw(st.sampled_from(["square", "disc"]))
        options = attention(group, draw, window=window, backend=backend, window_shape=shape)
        return LocalGroupSelfAttention(**options), options

    return make


def convolution(layer):
    def make(group, draw, side):
        kernel, channels, out = (
            draw(st.sampled_from([1, min(side, 3)])),
            draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
        )
        made = layer(group, channels, out, kernel, padding=kernel // 2)
        return made, {"channels": channels, "lifting": layer is LiftingConv}

    return make


LAYERS = {
    "global": global_attention,
    **{f"local, {name}": local_attention(name) for name in ("reference", "numba")},
    "lifting": convolution(LiftingConv),
    "convolution": convolution(GroupConv),
}


@st.composite
def layer_cases(draw, make, groups=GROUPS):
    group, side, generator = draw(groups), draw(st.sampled_from([1, 3, 4, 5])), torch.Generator()
    layer, options = make(group, draw, side)
    poses, generator = () if options["lifting"] else (group.order,), generator.manual_seed(draw(SEEDS))
    x = torch.randn(2, options["channels"], *poses, side, side, generator=generator, dtype=torch.float64)
    return group, randomized(layer, draw(st.integers(0, 999))), x


def assert_agrees_in_every_precision(layer, x, slack: float = 1):
    """The same numbers in all precisions give what double precision gives, up to slack times the bound."""
    x = x.bfloat16().double()
    for parameter in layer.parameters():
        parameter.data = parameter.data.bfloat16().double()
    exact = layer(x)
    assert torch.equal(exact, layer(x))
    for dtype in (torch.float32, torch.bfloat16):
        assert largest_error([layer.to(dtype)(x.to(dtype))], [exact]) < slack * BOUNDS[dtype]


@pytest.mark.parametrize("group", EACH_GROUP, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_commutes_with_its_group_in_every_precision(name, group):
    """And single and half precision come to what double precision comes to."""

    @tries(12)
    @given(layer_cases(LAYERS[name], in_any_order(group)))
    def check(case):
        group, layer, x = case
        assert equivariance_error(layer, x, group, exact(group, x.shape[-1])) < 1e-10
        assert_agrees_in_every_precision(layer, x)

    check()


def assert_gradients_are_those_of_finite_differences(layer, x):
    named = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(named, values, strict=True)), (x,))

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x[:1].requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradients_of_every_layer_are_those_of_finite_differences(name):
    @tries(6)
    @given(layer_cases(LAYERS[name]))
    def check(case):
        assert_gradients_are_those_of_finite_differences(*case[1:])

    check()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", ["numba", "tiled"])
def test_factors_that_underflow_give_the_result_and_leave_the_calling_thread_as_it_is(backend, dtype):
    """The threads of the kernel round subnormal numbers to zero; the thread that calls it must go on having them."""
    subnormal = torch.tensor([torch.finfo(dtype).tiny], dtype=dtype)

    @tries(60)
    @given(kernel_cases(), st.sampled_from([3.0, 10.0, 40.0, 100.0]))
    def check(case, scale):
        inputs, options = case
        inputs = [x.to(dtype) for x in (inputs[0] * scale, *inputs[1:])]
        expected = with_gradients(whole, [x.double() for x in inputs], options)
        found = with_gradients(BACKENDS[backend], inputs, options)
        # Rounding of a score grows with the score: nothing but that is allowed for.
        assert largest_error(found, expected) < (1e-9 if dtype == torch.float64 else 1e-5 * 30 * scale)
        assert (subnormal / 4).item() > 0

    check()


def test_a_thread_that_rounds_subnormal_numbers_to_zero_is_seen():
    """The control of the test above: what it looks at does change where rounding to zero is on."""
    subnormal = torch.tensor([torch.finfo(torch.float32).tiny])
    try:
        assert torch.set_flush_denormal(True) and (subnormal / 4).item() == 0
    finally:
        torch.set_flush_denormal(False)
