"""What the chapter on weaknesses claims: statistics with known answers, and faults beside their controls."""

import math

import numpy as np
import pytest
import torch

from e2vit.actions import rotate
from e2vit.data import as_float, embedded
from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index
from e2vit.models import GroupAttentionNetConfig
from e2vit_book.weaknesses import faults, figures
from e2vit_book.weaknesses import ladder as steerability
from e2vit_book.weaknesses import measure as weaknesses

ROUNDING = 1e-12


def test_a_power_law_is_found_again_and_noise_widens_its_interval():
    x = np.array([2.0, 3, 5, 8, 13, 21])
    exponent, low, high = weaknesses.power_law(x, 0.7 * x**2.5)
    assert exponent == pytest.approx(2.5) and high - low < 1e-6
    noisy = 0.7 * x**2.5 * np.exp(0.2 * np.random.default_rng(0).standard_normal(6))
    exponent, low, high = weaknesses.power_law(x, noisy)
    assert low < 2.5 < high and high - low > 0.1
    with pytest.raises(ValueError, match="at least 3 sizes, not 2"):
        weaknesses.power_law([1, 2], [1, 2])


def test_changes_and_flips_of_logits_written_by_hand():
    upright = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    logits = torch.stack([upright, torch.tensor([[0.0, 1.0], [0.0, 2.0]])])
    assert torch.equal(weaknesses.changes(logits, upright), torch.tensor([[0.0, 0.0], [0.25, 0.5]]))
    rate, low, high = weaknesses.flip_rate(logits, upright)
    assert rate == 0.25 and low < 0.25 < high
    wide = weaknesses.flip_rate(logits.repeat(50, 1, 1), upright)
    assert wide == (rate, low, high)  # more angles are no more images


def test_turned_logits_are_those_of_turned_images():
    images = torch.rand(5, 1, 8, 8)
    model = lambda x: x.flatten(1)  # noqa: E731
    found = weaknesses.turned_logits(model, images, [0, 45, 90], batch=2)
    assert torch.equal(found[0], images.flatten(1)) and torch.equal(found[2], images.rot90(1, (-2, -1)).flatten(1))
    assert torch.allclose(found[1], rotate(images, 45.0).flatten(1), atol=1e-6)


def record(experiment, accuracies=(), watched=(), seed=0, test=0.9, count=100):
    curve = [{"accuracy": a, "watched": w} for a, w in zip(accuracies, watched, strict=True)]
    measured = {"accuracy": test, "count": count}
    return {"experiment": experiment, "curve": curve, "seed": seed, "training_images": 10, "test": measured}


def test_optimism_is_the_best_test_accuracy_less_the_one_that_validation_chooses_and_never_negative():
    rows = weaknesses.selection(
        [
            record("selection/z2cnn", [0.5, 0.9, 0.8], [0.6, 0.7, 0.75]),
            record("selection/z2cnn", [0.5, 0.6, 0.8], [0.6, 0.7, 0.75], seed=1),
        ]
    )
    assert [(row["chosen"], row["best"]) for row in rows] == [(0.7, 0.75), (0.75, 0.75)]
    assert [row["optimism"] for row in rows] == pytest.approx([5.0, 0.0])
    curves = np.random.default_rng(0).random((50, 2, 9))
    assert all(row["optimism"] >= 0 for row in weaknesses.selection([record("selection/z2cnn", *c) for c in curves]))


def test_data_efficiency_compares_twins_at_the_same_share():
    of = [
        record("fraction/p4cnn-10"),
        record("fraction/z2cnn-10", test=0.8),
        *(record("fraction/p4cnn-100", test=0.95, seed=seed) for seed in range(2)),
    ]
    rows = weaknesses.efficiency(of)
    assert [(row["network"], row["fraction"], row["summary"].seeds) for row in rows] == [
        ("G-CNN, P4CNN", 0.1, 1),
        ("CNN, Z2CNN", 0.1, 1),
        ("G-CNN, P4CNN", 1.0, 2),
    ]
    (gain,) = weaknesses.advantage(rows)  # no twin at 100 %
    assert gain["difference"].mean == pytest.approx(0.1) and gain["difference"].shown


def test_consistency_of_a_model_that_sums_pixels_is_exact_at_quarter_turns_and_mirrors_alone():
    images = torch.rand(6, 1, 8, 8)
    of = weaknesses.consistency(lambda x: torch.stack([x.sum((1, 2, 3)), x[:, 0, 4, 4] * 0], 1), images)
    assert of["quarter turns"][0].max() < 1e-6 and of["mirrors"][0].max() < 1e-6
    assert of["30°, 45°, 60°"][0].min() > 1e-3 and of["quarter turns"][1][0] == 0


def test_the_published_pair_is_the_one_that_is_discussed():
    first, second = weaknesses.published("best on test")
    assert (first["model"], second["model"]) == ("GSA-Nets", "GE-ViT") and first["group"] == second["group"]
    assert round(50_000 * (second["accuracy"] - first["accuracy"]) / 100) == 20
    assert all(row["source"] for row in weaknesses.published())
    assert weaknesses.elsewhere("REViT")["exact_sides"] == [27, 29]


def test_scores_of_the_lifting_layer_are_those_of_the_draft_and_few_of_the_whole():
    scores = weaknesses.layer_scores(GroupAttentionNetConfig(index=gevit_index))
    assert scores["lifting, 28×28"] == 2_286_144
    assert scores["group layer 1, 28×28"] == 16 * 2_286_144  # the same pixels, two more poses: 36.6 million
    half = weaknesses.layer_scores(GroupAttentionNetConfig(query_pose="diagonal"))
    assert all(scores[layer] == 4 * half[layer] for layer in list(scores)[1:])


@pytest.mark.parametrize(
    "index, group, exact",
    [
        (gsa_index, cyclic(4), False),
        (gevit_index, cyclic(4), True),
        (cayley_index, cyclic(4), True),
        (gsa_index, dihedral(4), False),
        (gevit_index, dihedral(4), False),
        (cayley_index, dihedral(4), True),
    ],
    ids=["gsa-c4", "gevit-c4", "cayley-c4", "gsa-d4", "gevit-d4", "cayley-d4"],
)
def test_the_index_decides_whether_layer_map_and_logits_are_exact(index, group, exact):
    digits = as_float(embedded("rotmnist").test.images[:1])[..., 8:-8, 8:-8]
    for place, error in faults.index_errors(index, group, digits).items():
        assert (error < ROUNDING) == exact, place


def test_a_wrapped_table_is_measured_as_the_table_itself():
    for index in (gsa_index, lambda group: gsa_index(group)):
        assert faults.layer_error(index, dihedral(4), elements=False) < ROUNDING


def test_the_size_rule_decides_whether_a_network_for_tumors_is_exact():
    cheap = dict(heads=1, window=3, attention_dropout=0.0, position="stable", norm_eps=1e-5)
    for config, good in (
        (GroupAttentionNetConfig.pcam(**cheap), {72: True, 80: False, 96: False}),
        (GroupAttentionNetConfig.pcam(pool_after_last=False, **cheap), {72: True, 76: False, 96: True}),
    ):
        for size, (error, obeys) in faults.error_by_image_size(config, list(good)).items():
            assert obeys == good[size] and (error < ROUNDING) == good[size], size


def test_released_positions_are_signs_and_their_gradients_leave_half_precision():
    offsets = torch.arange(-10, 11) / 10
    encodings = faults.encodings_along_a_row(offsets)
    released = encodings["as released"]
    assert torch.allclose(released[offsets < 0], released[0].expand(10, -1), atol=1e-5)
    assert torch.allclose(released[offsets > 0], released[-1].expand(10, -1), atol=1e-5)
    assert (released[0] - released[-1]).abs().max() > 0.1
    stable = encodings["stable"]
    assert (stable[1:] - stable[:-1]).abs().max() < 0.3 and (stable[0] - stable[5]).abs().max() > 0.01
    digits = embedded("rotmnist").train
    images, labels = as_float(digits.images[:4]), digits.labels[:4]
    small = dict(channels=8, heads=2, window=5, blocks=(0, 2), expansions=(1, 1), crops=(0, 0))
    bad = faults.first_step(GroupAttentionNetConfig(**small), images, labels)
    good = faults.first_step(GroupAttentionNetConfig.stable(**small), images, labels)
    assert bad["gradient"] > 1_000 * good["gradient"] and bad["loss"] > 5 * math.log(10) > good["loss"]
    assert good["gradient"] < faults.HALF_MAXIMUM


def test_fourier_turns_are_exact_where_bilinear_ones_blur():
    side = 16
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    x, y = place[None], -place[:, None]
    blob = lambda x, y: torch.exp(-((x - 2) ** 2 + (y + 1) ** 2) / 4)  # noqa: E731  (smooth, and small at the border)
    image = blob(x, y)[None, None]
    turned = blob((x + y) / 2**0.5, (y - x) / 2**0.5)[None, None]  # 45° counter-clockwise: f(R⁻¹ x)
    fourier, bilinear = (steerability.turn(image, 45.0, how) for how in ("fourier", "bilinear"))
    assert (fourier - turned).abs().max() < 1e-3 < (bilinear - turned).abs().max() / 10
    assert torch.equal(steerability.turn(image, 90.0, "fourier"), image.rot90(1, (-2, -1)))


def test_the_layers_are_exact_at_quarter_turns_and_each_rung_removes_error_between_them():
    images = as_float(embedded("rotmnist").test.images[:2])
    for setting in steerability.LADDER.values():
        errors = steerability.layer_errors(cyclic(8), images, [0.0, 45.0, 90.0], setting)
        assert errors[:, [0, 2]].max() < ROUNDING and errors[:, 1].min() > 1e-3  # the control: 45° is not exact
    rungs = list(steerability.ladder(cyclic(8), images, 45.0).values())
    assert all((b <= a).all() for a, b in zip(rungs, rungs[1:], strict=False))
    assert (rungs[-1] < 0.5 * rungs[0]).all()


def test_attention_networks_are_drawn_without_records():
    assert figures.attention_networks({}, {}).axes
