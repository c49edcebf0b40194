"""The optimizers by name: what each decays, which layers Muon takes, and that its steps are those of matrices."""

import copy

import pytest
import torch
from torch import nn

from conftest import require
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    ViT,
    ViTConfig,
)
from e2vit.training.optimizer import make_optimizers, muon

CONFIG = ViTConfig(image_size=12, in_channels=2, classes=5, patch_size=4, width=8, depth=2, heads=2)


def stepped(model: nn.Module, optimizers: list, steps: int, first: int = 0) -> list[torch.Tensor]:
    """The parameters after some steps of training on drawn images."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.rand(7, 2, 12, 12, generator=generator), torch.randint(5, (7,), generator=generator)
        nn.functional.cross_entropy(model(images), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture
def has_muon() -> None:
    require(hasattr(torch.optim, "Muon"), "a torch that has Muon (2.9)")


@pytest.fixture
def model() -> ViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViT(CONFIG)


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.0), ("muon", 0.0), ("adam", 0.3)])
def test_biases_and_norms_decay_in_the_released_optimizer_alone(model, name, decay, request):
    if name == "muon":
        request.getfixturevalue("has_muon")
    for group in (g for optimizer in make_optimizers(name, model, 1e-3, 0.3) for g in optimizer.param_groups):
        vectors = [p for p in group["params"] if p.ndim <= 1]
        assert len(vectors) in (0, len(group["params"]))
        assert group["weight_decay"] == (decay if vectors else 0.3)


@pytest.mark.usefixtures("has_muon")
@pytest.mark.parametrize(
    "build",
    [
        lambda: ViT(CONFIG),
        lambda: HybridViT(HybridViTConfig(stem=(4, 6, 8), width=8)),
        lambda: GCNN(GCNNConfig.p4cnn()),
        lambda: GroupAttentionNet(GroupAttentionNetConfig.stable(channels=8, heads=2, window=3)),
    ],
)
def test_muon_takes_the_layers_in_the_middle_and_every_parameter_has_one_optimizer(build):
    model = build()
    optimizers = make_optimizers("muon", model, 1e-3, 0.1)
    of_muon = [p.data_ptr() for group in optimizers[1].param_groups for p in group["params"]]
    expected = [
        p.data_ptr()
        for key, p in model.named_parameters()
        if key.startswith(("blocks", "stem", "layers"))
        and p.ndim > 1
        and key not in ("stem.0.weight", "layers.0.weight")
        and not {"bias", "position", "element"} & set(key.split("."))
    ]
    assert sorted(of_muon) == sorted(expected)
    everything = [p.data_ptr() for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]]
    assert sorted(everything) == sorted(p.data_ptr() for p in model.parameters())


@pytest.mark.usefixtures("has_muon")
@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 7), (6, 2, 3, 5)])
def test_a_step_of_muon_moves_an_array_as_it_moves_the_matrix(shape):
    generator = torch.Generator().manual_seed(0)
    array = nn.Parameter(torch.randn(shape, generator=generator))
    matrix = nn.Parameter(array.detach().clone().reshape(6, -1))
    ours, plain = muon([array], lr=0.1, weight_decay=0.1), torch.optim.Muon([matrix], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        array.grad = torch.randn(shape, generator=generator)
        matrix.grad = array.grad.reshape(6, -1)
        ours.step(), plain.step()
    assert torch.equal(array.detach().reshape(6, -1), matrix.detach())
    assert all(p.grad is None for group in ours.param_groups for p in group["params"])  # nothing holds the gradients


@pytest.mark.usefixtures("has_muon")
@pytest.mark.parametrize("keeps_state", [True, False])
def test_a_pair_of_optimizers_continues_from_its_saved_states_and_not_without_them(model, keeps_state):
    pair = make_optimizers("muon", model, 1e-2, 0.1)
    stepped(model, pair, 2)
    twin = copy.deepcopy(model)
    resumed = make_optimizers("muon", twin, 1e-2, 0.1)
    for before, after in zip(pair, resumed, strict=True):
        if keeps_state:
            after.load_state_dict(copy.deepcopy(before.state_dict()))
    after = zip(stepped(model, pair, 2, 2), stepped(twin, resumed, 2, 2), strict=True)
    assert all(torch.equal(left, right) for left, right in after) == keeps_state


def test_an_old_torch_is_told_what_muon_needs(model, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="muon needs torch 2.9 or newer, this is"):
        make_optimizers("muon", model, 1e-3, 0.1)
