"""A report on a model: what changes under each element, and the layer where equivariance breaks."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import e2vit
from conftest import relabeled, untyped
from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    PooledHybrid,
    PooledHybridConfig,
    Symmetrized,
    ViT,
    ViTConfig,
)
from e2vit.testing import check, randomized

HYBRID = HybridViTConfig(image_size=12, stem=(2, 3), width=6, heads=3, depth=1)
ATTENTION = GroupAttentionNetConfig(
    image_size=8, channels=8, heads=1, window=3, blocks=(1,), expansions=(1,), crops=(0,), position="stable"
)


def images(side: int, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "config", "group", "layer"),
    [
        (HybridViT, HYBRID, cyclic(4), None),
        (HybridViT, replace(HYBRID, group=dihedral(4), attention="within_pose", position="rotary"), dihedral(4), None),
        (HybridViT, HYBRID, cyclic(8), None),  # its exact elements are those of C4
        (HybridViT, HYBRID, relabeled(cyclic(4), 1), None),
        (HybridViT, HYBRID, dihedral(4), "stem.0"),
        (HybridViT, replace(HYBRID, position="absolute"), cyclic(4), "blocks.0.attention_norm"),
        (HybridViT, replace(HYBRID, group=relabeled(dihedral(4), 1)), relabeled(dihedral(4), 1), None),
        (GCNN, GCNNConfig(image_size=14, widths=(2, 2, 2)), cyclic(4), None),
        (GCNN, GCNNConfig(relabeled(dihedral(4), 1), image_size=14, widths=(2, 2, 2)), relabeled(dihedral(4), 1), None),
        (PooledHybrid, PooledHybridConfig(HYBRID, channels=8, heads=1, layers=1, window=3), cyclic(4), None),
        (GroupAttentionNet, replace(ATTENTION, index=cayley_index, group=dihedral(2)), dihedral(2), None),
        (GroupAttentionNet, replace(ATTENTION, group=relabeled(cyclic(4), 1)), relabeled(cyclic(4), 1), None),
        (GroupAttentionNet, replace(ATTENTION, group=relabeled(dihedral(4), 1)), relabeled(dihedral(4), 1), None),
        (
            GroupAttentionNet,
            replace(ATTENTION, index=gevit_index, group=dihedral(2)),
            dihedral(2),
            "layers.0.attention",
        ),
        (GroupAttentionNet, replace(ATTENTION, index=gsa_index), cyclic(4), "layers.0.attention"),
        (ViT, ViTConfig(image_size=12, width=8, depth=1, heads=2), cyclic(4), "embed"),
    ],
)
def test_the_layer_where_equivariance_breaks_is_named(model, config, group, layer, capsys):
    report = check(randomized(model(config)), images(config.image_size), group)
    assert report["breaks_at"] == layer
    assert (report["exact"] < 1e-10) == (layer is None)
    printed = capsys.readouterr().out
    assert printed.count("\n") == group.order + 2 and (layer is None or repr(layer) in printed)


def test_the_rows_name_what_each_element_does():
    report = check(randomized(HybridViT(replace(HYBRID, group=dihedral(8)))), images(12), dihedral(8))
    rows = report["elements"]
    assert [row["exact"] for row in rows[:3]] == [True, False, True] and len(rows) == 16
    assert (rows[1]["turn"], rows[8]["turn"], rows[10]["turn"]) == ("45°", "mirror, 0°", "mirror, 90°")
    assert report["interpolated"] == max(row["change"] for row in rows[1::2]) > 1e-3 > 1e-10 > report["exact"]
    assert all(0 <= row["answers"] <= 1 for row in rows) and rows[0]["change"] == 0


def test_any_classifier_can_be_checked_and_is_left_as_it_was():
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.Dropout(0.5)).double().train()
    net[2].eval()
    report = check(lambda x: SimpleNamespace(logits=net(x)), images(12), cyclic(4))
    assert report["exact"] > 1e-2 and report["breaks_at"] is None
    check(net, images(12), cyclic(4))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    assert check(Symmetrized(net, cyclic(4)), images(12), cyclic(4))["exact"] < 1e-10


def test_maps_should_move_with_the_images():
    pool = nn.AvgPool2d(3, 1, 1)
    assert check(pool, images(9), dihedral(4))["exact"] < 1e-12
    assert check(nn.Conv2d(1, 2, 3, dtype=torch.float64), images(9), cyclic(4))["exact"] > 1e-2
    with pytest.raises(ValueError, match="got tuple: pass output="):
        check(lambda x: (x,), images(9), cyclic(4))
    assert check(lambda x: {"maps": pool(x)}, images(9), cyclic(4), output="maps")["exact"] < 1e-12
    with pytest.raises(ValueError, match="images are floats .*, not torch.uint8"):
        check(pool, images(9).byte(), cyclic(4))
    with untyped(), pytest.raises(TypeError, match="such as cyclic"):
        check(pool, images(9), 4)


def test_every_public_name_is_at_the_top_level():
    for name in e2vit.__all__:
        value = getattr(e2vit, name)
        assert isinstance(value, dict) or value.__module__.startswith("e2vit.")
    assert e2vit.cyclic is cyclic and e2vit.data.load and e2vit.capture.capture
    assert set(e2vit.__all__) <= set(dir(e2vit))
    with pytest.raises(AttributeError, match="no attribute 'cyclick'"):
        e2vit.cyclick  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = {attr = "e2vit.__version__"}' in project and e2vit.__version__


def test_the_import_is_quick():
    """Nothing but the standard library is loaded before a name is used."""
    code = (
        "import sys, time as t; a = t.process_time(); import e2vit; print(t.process_time() - a, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds, torch_loaded = done.stdout.split()
    assert float(seconds) < 0.1 and torch_loaded == "False"
