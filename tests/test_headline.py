"""The headline of README.md: it says what the records say, and is out of date as soon as they say something else."""

import json

import headline
import pytest

from e2vit.experiments import results_folder
from e2vit.experiments.catalog import EXPERIMENTS, build

README = headline.ROOT / "README.md"
COSTS = json.loads((results_folder() / "benchmarks" / "throughput.json").read_text(encoding="utf-8"))


def record(accuracy=0.98, count=50_000, seconds=90.0, device="Intel(R) Xeon(R) Processor (CPU), 2 threads", sha="a"):
    return {
        "test": {"accuracy": accuracy, "interval": [accuracy - 0.002, accuracy + 0.001], "count": count},
        "seconds": seconds,
        "parameters": 12_345,
        "device": device,
        "checkpoint_sha256": sha,
        "curve": [{"epoch": 1}, {"epoch": 2}],
        "configuration": {"training": {"epochs": 2}},
        "data": {"origin": "rebuilt from MNIST"},
    }


@pytest.fixture
def records(monkeypatch):
    """Records by experiment, in place of those of the folder."""
    made = {}

    def seeds_present(name, results=None):
        return list(range(len(made.get(name, []))))

    monkeypatch.setattr(headline, "seeds_present", seeds_present)
    monkeypatch.setattr(headline, "read_record", lambda name, seed, results=None: made[name][seed])
    return made


def test_the_readme_is_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert headline.updated(text, headline.tables()) == text, "run python book/tools/headline.py"


def test_a_new_record_puts_it_out_of_date(records):
    before = headline.tables()
    records["rotmnist/vit"] = [record()]
    assert headline.tables() != before


def test_what_stands_outside_of_the_marks_stays():
    text = f"a\n{headline.MARKS[0]}old\n{headline.MARKS[1]}\nb\n"
    assert headline.updated(text, "new\n") == text.replace("old", "new")
    assert headline.updated(headline.updated(text, "new\n"), "old\n") == text


def test_every_row_is_an_experiment_and_its_costs_are_measured():
    assert set(headline.MODELS) <= set(EXPERIMENTS)
    assert set(COSTS["models"]) == set(headline.MODELS)


@pytest.mark.parametrize("name", ["rotmnist/hybrid-c4", "rotmnist/gsa-c4", "rotmnist/gcnn-p4cnn"])
def test_the_parameters_of_the_costs_are_those_of_the_model(name):
    assert COSTS["models"][name]["parameters"] == sum(p.numel() for p in build(EXPERIMENTS[name], 0).parameters())


def test_what_is_equivariant_is_exact_and_what_is_not_is_seen():
    changes = {name: entry["change_redrawn"] for name, entry in COSTS["models"].items()}
    for name in ("hybrid-c4", "hybrid-c8", "corrected-c4", "gevit-c4", "gcnn-p4cnn", "gcnn-modern"):
        assert changes[f"rotmnist/{name}"] < 1e-13
    for name in ("vit", "gcnn-z2cnn", "attention-z2", "gsa-c4"):
        assert changes[f"rotmnist/{name}"] > 1e-7  # averaging at the end hides much of the fault of gsa-c4


def test_several_seeds_are_a_mean_with_its_standard_error():
    assert headline.accuracy([record(0.97), record(0.98), record(0.99)]) == "98.00 ± 0.58"
    assert headline.accuracy([record(0.98)]) == "98.00 [97.80, 98.10]"


def test_a_row_says_what_the_records_and_the_measurement_say():
    cost = {
        "images_per_second": 750.0,
        "attention_scores": 38416,
        "change_trained": 5.6e-16,
        "weights": {"seed": 0, "checkpoint_sha256": "a"},
    }
    assert headline.reach("x", "Net", [record()], cost) == (
        "| Net | 98.00 [97.80, 98.10], 1&nbsp;seed, 2&nbsp;epochs | 12,345 | 6·10⁻¹⁶ |"
    )
    assert "1&nbsp;seed |" in headline.reach("x", "Net", [record() | {"curve": []}], cost)  # nothing was trained
    assert headline.price("x", "Net", [record()], cost) == "| Net | 38,416 | 750 | 90 s, Intel Xeon, 2 threads |"
    two = [record(), record(device="NVIDIA H200", seconds=30.0)]
    assert headline.price("x", "Net", two, cost).endswith("| 90 s, Intel Xeon, 2 threads; 30 s, NVIDIA H200 |")


def test_a_change_measured_with_other_weights_is_not_told():
    cost = {"change_trained": 0.5, "weights": {"seed": 0, "checkpoint_sha256": "of an older run"}}
    assert headline.reach("x", "Net", [record(sha="b")], cost).endswith("| – |")


@pytest.mark.parametrize(
    "value, said",
    [(0.0, "0"), (5.6e-16, "6·10⁻¹⁶"), (1.2e-12, "1·10⁻¹²"), (0.0412, "4.1 %"), (4.9e-6, "0.00049 %"), (1.48, "148 %")],
)
def test_a_change_is_told_in_percent_or_as_a_power_of_ten(value, said):
    assert headline.share(value) == said


def test_copies_of_the_images_have_tables_of_their_own(records):
    official = record(0.5) | {"data": {"origin": "official archive"}}
    records["rotmnist/vit"], records["rotmnist/hybrid-c4"] = [record(), official], [record()]
    lines = headline.tables().split("**Trained on turned digits** ")
    assert len(lines) == 3
    assert "(official archive;" in lines[1] and "50.00" in lines[1] and "98.00" not in lines[1]
    assert lines[2].count("98.00") == 2 and "50.00" not in lines[2]


def test_a_model_has_its_cost_once(records):
    records["rotmnist/gevit-c4-tenth"] = [record()]
    costs = headline.tables().split("**What they cost.**")[1]
    assert costs.count("GE-ViT over C4, a tenth of the images |") == 1
    records["rotmnist/gevit-c4"] = [record()]
    costs = headline.tables().split("**What they cost.**")[1]
    assert costs.count("GE-ViT over C4 |") == 1 and "a tenth" not in costs


def test_a_stale_record_is_left_out(records, monkeypatch):
    def stale(name, seed, results=None):
        raise headline.RecordError("stale")

    records["rotmnist/vit"] = [record()]
    assert "Plain ViT" in headline.tables()
    monkeypatch.setattr(headline, "read_record", stale)
    assert headline.tables() == "No headline model has a record yet.\n"


def test_fewer_test_images_are_told(records):
    records["rotmnist_upright/vit"] = [record()]
    records["post_hoc/upright/none/mean_logits"] = [record(count=10_000)]
    assert "50,000 test images, the first 10,000 for those that are slow or show several views)" in headline.tables()


def test_the_figures_of_others_have_a_source_and_a_table_of_their_own():
    rows = json.loads((headline.ROOT / "data" / "published.json").read_text(encoding="utf-8"))
    lines = headline.published(headline.ROOT / "data" / "published.json")
    assert len(lines) == 2 + len(rows) and all("](https://" in line for line in lines[2:])
    ours, others = headline.tables().split("**What others report**")
    assert not any(line in ours for line in lines) and all(line in others for line in lines)
