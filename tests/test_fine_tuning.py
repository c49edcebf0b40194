"""The regimes of the post-hoc chapter: what moves, what is kept, and that kept features change nothing."""

import copy
import dataclasses
import json

import pytest
import torch

from e2vit import metrics
from e2vit.data import as_float, embedded, in_shape_of
from e2vit.experiments import RecordError, find, run
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.groups import cyclic
from e2vit.models import Symmetrized, SymmetrizedConfig, ViTConfig
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training import fine_tuning
from e2vit.training.fine_tuning import FineTuneConfig, predict


@pytest.fixture()
def small(monkeypatch, tmp_path):
    """Two seconds' worth of experiments on the embedded digits, with records in a folder of their own."""
    base = dataclasses.replace(
        find("digits/vit"),
        name="base",
        model=ViTConfig(width=16, depth=1, heads=2),
        training=dataclasses.replace(find("digits/vit").training, epochs=1),
    )
    entries = {"base": base}
    for regime in fine_tuning.REGIMES:
        training = FineTuneConfig(regime, epochs=1, rates=(1e-4, 1e-2), batch_size=500)
        model = SymmetrizedConfig(base.model, cyclic(4), "learned_attention")
        entries[regime] = dataclasses.replace(base, name=f"made/{regime}", base="base", model=model, training=training)
    for entry in entries.values():
        monkeypatch.setitem(EXPERIMENTS, entry.name, entry)
    monkeypatch.setenv("E2VIT_RESULTS", str(tmp_path))
    run("base", "train", progress=False)
    return tmp_path


@pytest.mark.parametrize("name", [*AGGREGATES, *CONTROLS])
def test_kept_features_give_the_logits_of_the_model(name):
    model = Symmetrized(run("rotmnist/vit", "quick").model, cyclic(4), name).eval()
    images = embedded("rotmnist").test.images[:30]
    with torch.no_grad():
        assert torch.allclose(predict(model, images), model(as_float(images)), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "rotated/none/mean_logits",
        "rotated/head/mean_logits",
        "rotated/head/learned_attention",
        "upright/head/canonical_learned",
        "tenth/all/learned_attention",
        "aerial/none/frame",
    ],
)
def test_every_regime_runs_in_quick_mode(name):
    record = json.loads(json.dumps(run(f"post_hoc/{name}", "quick").record, allow_nan=False))
    assert record["base"]["experiment"] == EXPERIMENTS[f"post_hoc/{name}"].base
    assert 0 <= record["against_averaging"]["p_value"] <= 1
    if name == "rotated/none/mean_logits":
        assert record["against_averaging"]["only_this"] == record["against_averaging"]["only_averaging"] == 0


def test_a_regime_moves_what_it_says_and_nothing_else(small):
    before = run("base", "report").model.state_dict()
    for regime, moved in (("none", False), ("head", False), ("all", True)):
        after = run(f"made/{regime}", "train", progress=False).model.model.state_dict()
        assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("head")) is not moved
        assert torch.equal(after["head.weight"], before["head.weight"]) is (regime == "none")


def test_a_record_names_its_base_and_is_refused_with_another(small):
    made = run("made/head", "train", progress=False)
    assert made.record["base"]["experiment"] == "base" and {e["rate"] for e in made.record["curve"]} == {1e-4, 1e-2}
    again = run("made/head", "report")
    images = embedded("digits").test.images[:20]
    assert torch.equal(predict(again.model, images), predict(made.model, images))
    for file in (small / "base").iterdir():
        file.unlink()
    with pytest.raises(RecordError, match="no record of base"):
        run("made/head", "report")
    run("base", "train", seed=1, progress=False)
    (small / "base/seed1.safetensors").rename(small / "base/seed0.safetensors")
    record = json.loads((small / "base/seed1.json").read_text()) | {"seed": 0}
    (small / "base/seed0.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="another checkpoint of base"):
        run("made/head", "report")


def test_the_chosen_epoch_is_the_best_of_all_learning_rates(small):
    record = run("made/head", "train", progress=False).record
    chosen = record["curve"][record["chosen_epoch"] - 1]
    assert chosen["accuracy"] == max(entry["accuracy"] for entry in record["curve"])
    assert record["validation"]["accuracy"] == pytest.approx(chosen["accuracy"])


def test_features_of_views_are_kept_for_the_same_model_and_images_alone(monkeypatch):
    monkeypatch.setattr(fine_tuning, "_kept", [])
    base = copy.deepcopy(run("rotmnist/vit", "quick").model)
    images, calls = embedded("rotmnist").test.images[:30], []
    compute = Symmetrized.view_features
    monkeypatch.setattr(Symmetrized, "view_features", lambda self, x: (calls.append(len(x)), compute(self, x))[1])

    def computed(model) -> int:
        calls.clear()
        fine_tuning.view_features(model, images)
        return sum(calls) - 2  # two images are looked at in any case

    model = Symmetrized(base, cyclic(4))
    assert computed(model) == 30 and computed(model) == 0
    assert computed(Symmetrized(base, cyclic(4), "feature_mean")) == 0  # another aggregate of the same features
    tail, half = copy.deepcopy(base.head), copy.deepcopy(base.head)
    with torch.no_grad():
        half.weight.div_(2)
    named = {"features": base.features, "head": tail}
    assert computed(Symmetrized(base, cyclic(4), "feature_mean", **named)) == 30
    assert computed(Symmetrized(base, cyclic(4), "feature_mean", **named)) == 0
    named = {"features": lambda x: 2 * base.features(x), "head": half}
    assert computed(Symmetrized(base, cyclic(4), "feature_mean", **named)) == 30  # the same weights, other features
    with torch.no_grad():
        base.head.bias.add_(1.0)
    assert computed(model) == 0  # the head has no part in them
    with torch.no_grad():
        base.position.mul_(1.001)
    assert computed(model) == 30


def test_digits_take_the_shape_of_other_images():
    shaped = in_shape_of(embedded("rsscn7"), ViTConfig(image_size=64, in_channels=3, classes=7, patch_size=8))
    assert shaped.test.images.shape[1:] == (3, 64, 64) and shaped.test.labels.max() == 6
    assert in_shape_of(embedded("rotmnist"), object()).test.images.shape[1:] == (1, 28, 28)


@pytest.mark.parametrize("wrong", [{"regime": "some"}, {"epochs": 0}, {"rates": ()}])
def test_a_configuration_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        FineTuneConfig(**wrong)


def test_mcnemar_counts_the_images_that_only_one_gets_right():
    base = run("rotmnist/vit", "quick").model
    split = embedded("rotmnist").test[:100]
    model = Symmetrized(base, cyclic(4), "most_certain")
    against = fine_tuning.against_averaging(model, base, split)
    accuracies = [
        metrics.accuracy(predict(m, split.images), split.labels)[0] for m in (model, Symmetrized(base, cyclic(4)))
    ]
    assert against["only_this"] - against["only_averaging"] == round(100 * (accuracies[0] - accuracies[1]))
