"""The tables of README.md and of the pages say what the records say."""

import json

import pytest
import shown
import tables

from e2vit.experiments import EXPERIMENTS, build

COSTS = tables.read(tables.RESULTS / "benchmarks" / "throughput.json")


def record(accuracy: float = 0.98, origin: str = "rebuilt from MNIST", **changes) -> dict:
    return {
        "experiment": "rotmnist/vit",
        "seed": 0,
        "test": {"accuracy": accuracy, "count": 50_000},
        "seconds": 90.0,
        "parameters": 12_345,
        "training_images": 12_000,
        "device": "Intel(R) Xeon(R) Processor (CPU), 1 threads",
        "data": {"origin": origin},
        "checkpoint_sha256": "a",
    } | changes


def test_no_table_is_out_of_date(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 0, "run make tables"


def test_a_table_is_replaced_between_its_marks_alone():
    text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n"
    assert tables.updated(text, "x", ["new"]) == text.replace("old", "new")
    with pytest.raises(ValueError, match="marks of the table y"):
        tables.updated(text, "y", [])


def test_every_experiment_that_is_shown_exists_and_its_costs_are_measured():
    names = {*shown.ROWS, *shown.LIVE.values(), *shown.PACKAGED.values(), *sum(shown.TURNING.values(), ())}
    assert names <= set(EXPERIMENTS) and set(COSTS["models"]) == set(shown.ROWS)


@pytest.mark.parametrize("name", ["rotmnist/hybrid-c4", "rotmnist/gcnn-p4cnn"])
def test_the_parameters_of_the_costs_are_those_of_the_model(name):
    assert COSTS["models"][name]["parameters"] == sum(p.numel() for p in build(EXPERIMENTS[name], 0).parameters())


def test_what_is_equivariant_is_exact_and_what_is_not_is_seen():
    changes = {name: entry["change_redrawn"] for name, entry in COSTS["models"].items()}
    exact = {name for name in changes if "/vit" not in name}
    assert max(changes[name] for name in exact) < 1e-12 < 1e-2 < min(changes[n] for n in changes.keys() - exact)


def test_a_row_says_what_the_records_and_the_measurement_say():
    runs = [record(accuracy, seed=seed) for seed, accuracy in enumerate((0.95, 0.96, 0.97))]
    costs = {"rotmnist/vit": {"change_trained": 5.6e-16, "weights": {"checkpoint_sha256": "a"}}}
    rows = tables.headline({("rotmnist/vit", "x"): runs}, {"models": costs})
    assert rows[2:] == ["| turned digits | Plain ViT | 96.00 [93.52, 98.48], 3&nbsp;seeds | 12,345 | 6·10⁻¹⁶ |"]
    other = {"models": {"rotmnist/vit": {"change_trained": 0.5, "weights": {"checkpoint_sha256": "older"}}}}
    assert tables.headline({("rotmnist/vit", "x"): runs}, other)[2].endswith("| – |")


@pytest.mark.parametrize(
    "value, said",
    [(0.0, "0"), (5.6e-16, "6·10⁻¹⁶"), (1.2e-12, "1·10⁻¹²"), (0.0412, "4.1 %"), (4.9e-6, "0.00049 %"), (1.48, "148 %")],
)
def test_a_change_is_in_percent_or_a_power_of_ten(value, said):
    assert tables.share(value) == said


def test_scores_on_different_copies_of_the_images_are_not_averaged():
    found = {("rotmnist/vit", "official"): [record(0.5)], ("rotmnist/vit", "rebuilt"): [record(0.9), record(0.9)]}
    first, second = tables.headline(found, {"models": {}})[2:]
    assert "(official) | 50.00" in first and "(rebuilt) | 90.00" in second and "2&nbsp;seeds" in second


def test_two_devices_are_both_named():
    cells = tables.entry("a/b", "MNIST", [record(), record(device="NVIDIA H200")], best=1.0)
    assert cells[-1] == "MNIST; Intel Xeon, 1 thread / NVIDIA H200"


def test_a_network_that_is_slow_in_the_page_has_no_decimals():
    measured = {"browser": "x", "device": "y", "networks": {"rotmnist/vit": {"milliseconds": 4321.0}}}
    assert tables.browser({("rotmnist/vit", "x"): [record()]}, measured)[2].endswith("| 12,000 | 4,321 |")
    measured["networks"]["rotmnist/vit"]["milliseconds"] = 3.14
    assert tables.browser({("rotmnist/vit", "x"): [record()]}, measured)[2].endswith("| 3.1 |")


def test_the_figures_of_others_have_a_source_and_a_table_of_their_own():
    rows = json.loads((tables.ROOT / "data" / "published.json").read_text(encoding="utf-8"))
    lines = tables.published(rows)
    assert len(lines) == 2 + len(rows) and all("](https://" in line for line in lines[2:])
