"""Wrapping changes nothing about a model, and a wrapper works in threads, chunks, half precision and empty batches."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_symmetrized import images, small_vit
from torch import nn

from conftest import untyped
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized, SymmetrizedConfig, ViTConfig
from e2vit.models.symmetrized import AGGREGATES
from e2vit.testing import randomized


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
    y = wrapped.eval()(images().to(dtype))
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


def wrap(model=None, group=None, *arguments, **options):
    return Symmetrized(model or small_vit(), group or cyclic(4), *arguments, **options)


REFUSED = {  # what is wrong → a call, words of the sentence, the error where it is no ValueError
    "a number for a group": (lambda: wrap(None, 4), "cyclic", TypeError),
    "a name for a group": (lambda: wrap(None, "C4"), "cyclic", TypeError),
    "a name for a model": (lambda: wrap("vit"), "callable", TypeError),
    "an unknown aggregate": (lambda: wrap(aggregate="mean_logit"), "did you mean mean_logits"),
    "an unknown aggregate in a configuration": (lambda: SymmetrizedConfig(ViTConfig(), aggregate="votes"), "vote"),
    "an unknown activation": (lambda: wrap(activation="relu"), "sigmoid"),
    "an unknown action": (lambda: wrap(output_action="boxes"), "keypoints"),
    "an unknown interpolation": (lambda: wrap(None, cyclic(8), interpolation="linear"), "bicubic"),
    "elements between the pixels": (lambda: wrap(None, cyclic(8)), "4 of the 8 elements of C8"),
    "features of a bare callable": (lambda: wrap(lambda x: x, aggregate="feature_mean"), "bare callable"),
    "features of an unknown model": (lambda: wrap(nn.Sequential(nn.Flatten()), aggregate="moments"), "features= and"),
    "half of a split": (lambda: wrap(aggregate="moments", features=lambda x: x), "both"),
    "an unknown width": (lambda: wrap(lambda x: x, cyclic(4), "moments", lambda x: x, lambda x: x), "width"),
    "an example of one": (lambda: wrap(aggregate="moments", example=images(1)), "two images"),
    **{
        f"a chunk of {chunk!r}": (lambda chunk=chunk: wrap(chunk=chunk), "chunk counts views.* starts at 1")
        for chunk in (0, -1, 2.0, "8", True)
    },
    "one image": (lambda: wrap()(images()[0].float()), "batch, channel"),
    "bytes": (lambda: wrap()(images().byte()), "float images"),
    "an array": (lambda: wrap()(images().numpy()), "ndarray"),
    "a quarter turn of an oblong": (lambda: wrap(Convolutional().double())(images()[..., 1:]), "square"),
    "a map instead of logits": (lambda: wrap(lambda x: x)(images()), "shape"),
    "a tuple instead of logits": (lambda: wrap(lambda x: (x, x))(images()), "tuple"),
    "one row for all": (lambda: wrap(lambda x: x.mean((0, 2, 3))[None])(images()), "12 rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(case):
    call, words, *kind = REFUSED[case]
    with untyped(), pytest.raises(kind[0] if kind else ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
