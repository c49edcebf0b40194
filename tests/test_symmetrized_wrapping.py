"""Wrapping changes nothing about a model, and a wrapper works in threads, chunks, half precision and empty batches."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from e2vit.actions import act, invariance_error
from e2vit.groups import FiniteGroup, cyclic, dihedral, from_matrices
from e2vit.models import Symmetrized, ViT, ViTConfig
from e2vit.models.symmetrized import AGGREGATES
from e2vit.testing import randomized


def images(count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 2, 12, 12, generator=generator, dtype=torch.float64).to(dtype)


def small_vit():
    return ViT(ViTConfig(image_size=12, in_channels=2, classes=5, patch_size=3, width=12, depth=1, heads=3))


class Convolutional(nn.Module):
    """With batch norm, and a log-softmax after the last linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7), nn.GELU())
        self.fc = nn.Linear(7, 5)

    def forward(self, x):
        return self.fc(self.stem(x).mean((-2, -1))).log_softmax(-1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["mean_logits", "moments", "canonical_learned"])
def test_every_submodule_keeps_its_mode_and_its_numbers(name, training):
    model = Convolutional().train(training)
    model.stem[1].train(not training)
    modes, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    wrapped = Symmetrized(model, cyclic(4), name)
    assert [m.training for m in model.modules()] == modes and wrapped.training == training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert not model._forward_hooks and not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", AGGREGATES)
def test_new_parameters_follow_the_model_and_half_precision_runs(name, dtype):
    wrapped = Symmetrized(small_vit().to(dtype), dihedral(4), name)
    assert {p.dtype for p in wrapped.parameters()} == {dtype}
    y = wrapped.eval()(images(dtype=dtype))
    assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("name", AGGREGATES)
def test_no_aggregate_holds_a_float64_buffer(name):
    wrapped = Symmetrized(small_vit(), dihedral(4), name)
    assert not any(buffer.dtype == torch.float64 for buffer in wrapped.buffers())


@pytest.mark.parametrize("name", AGGREGATES)
def test_an_empty_batch_gives_no_logits(name):
    wrapped = randomized(Symmetrized(small_vit(), dihedral(4), name))
    assert wrapped(images(0)).shape == (0, 5)
    wrapped.chunk = 3
    assert wrapped(images(0)).shape == (0, 5)


def test_four_threads_get_right_answers():
    for make, name in ((small_vit, "feature_mean"), (Convolutional, "feature_max"), (small_vit, "learned_attention")):
        wrapped = randomized(Symmetrized(make(), cyclic(4), name))
        batches = [images(n) * n for n in range(1, 9)]
        expected = [wrapped(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                assert all(map(torch.equal, pool.map(wrapped, batches), expected))


def test_batch_norm_in_training_gets_even_parts():
    wrapped = Symmetrized(Convolutional().double().train(), cyclic(4), chunk=16)
    seen = []
    wrapped.model.stem.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    wrapped(images(5))  # not four images and one
    assert seen == [12, 8]
    with pytest.raises(ValueError, match="two images"):
        wrapped(images(1))


def unchecked(*arguments, **options) -> Symmetrized:
    """Without the type checker of the tests, which would come first."""
    wrapper = Symmetrized.__new__(Symmetrized)
    inspect.unwrap(Symmetrized.__init__)(wrapper, *arguments, **options)
    return wrapper


def on(x):
    return inspect.unwrap(Symmetrized.forward)(Symmetrized(small_vit(), cyclic(4)), x)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, "8", True])
def test_a_chunk_is_a_whole_number(chunk):
    with pytest.raises(ValueError, match="chunk counts views"):
        unchecked(small_vit(), cyclic(4), chunk=chunk)


REFUSED = {
    "a number for a group": (lambda: unchecked(small_vit(), 4), TypeError, "cyclic"),
    "a name for a group": (lambda: unchecked(small_vit(), "C4"), TypeError, "cyclic"),
    "a name for a model": (lambda: unchecked("vit", cyclic(4)), TypeError, "callable"),
    "an unknown activation": (lambda: Symmetrized(small_vit(), cyclic(4), activation="relu"), ValueError, "sigmoid"),
    "an unknown action": (lambda: Symmetrized(small_vit(), cyclic(4), output_action="boxes"), ValueError, "keypoints"),
    "one image": (lambda: Symmetrized(small_vit(), cyclic(4))(images()[0].float()), ValueError, "batch, channel"),
    "bytes": (lambda: Symmetrized(small_vit(), cyclic(4))(images().byte()), ValueError, "float images"),
    "an array": (lambda: on(images().numpy()), ValueError, "ndarray"),
    "an example of one": (
        lambda: Symmetrized(small_vit(), cyclic(4), "moments", example=images(1)),
        ValueError,
        "two images",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def relabeled(group: FiniteGroup, degrees: float) -> FiniteGroup:
    """The elements in another order, the identity first, seen in a coordinate system that is turned."""
    order = torch.cat(
        [torch.tensor([0]), 1 + torch.randperm(group.order - 1, generator=torch.Generator().manual_seed(1))]
    )
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return from_matrices(f"{group} relabeled", turn @ group.matrices[order] @ turn.T)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 45.0])
@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize("name", AGGREGATES)
def test_no_aggregate_counts_on_the_order_of_the_elements(name, group, degrees):
    other = relabeled(group, degrees)
    wrapped = randomized(Symmetrized(small_vit(), other, name))
    y = wrapped(images())
    for g in range(other.order):
        assert (wrapped(act(other, g, images())) - y).abs().max() < 1e-10 * y.abs().max()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_views_are_turned_by_the_matrix_of_their_element(mode):
    group, other = dihedral(8), relabeled(dihedral(8), 0.0)
    views = Symmetrized(small_vit(), group, interpolation=mode).views(images())
    for g, view in enumerate(Symmetrized(small_vit(), other, interpolation=mode).views(images()).unbind(1)):
        same = (group.matrices - other.matrices[g]).abs().amax((1, 2)).argmin()
        assert torch.allclose(view, views[:, same], atol=1e-10)


def test_chunks_are_invariant_too():
    wrapped = randomized(Symmetrized(small_vit(), dihedral(4), "bispectrum", chunk=5))
    assert invariance_error(wrapped, images(), dihedral(4)) < 1e-10
