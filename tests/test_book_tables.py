"""The tables of the page on reproduction say what the records say."""

import importlib.util
import json
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "book" / "_ext" / "records.py"


@pytest.fixture(scope="module")
def tables():
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("records", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(accuracy: float, device: str = "CPU") -> dict:
    return {
        "test": {"accuracy": accuracy},
        "seconds": 90,
        "parameters": 12_345,
        "device": device,
        "data": {"origin": "rebuilt from MNIST"},
    }


def test_a_row_is_the_mean_over_the_seeds_with_its_standard_error(tables):
    cells = tables.row("rotmnist/vit", [record(0.97), record(0.98), record(0.99)]).strip("| ").split(" | ")
    assert cells == ["`rotmnist/vit`", "98.00 ± 0.58", "3", "12,345", "2", "rebuilt from MNIST; CPU"]
    assert "±" not in tables.row("rotmnist/vit", [record(0.97)])


def test_two_devices_are_both_named(tables):
    assert tables.row("a/b", [record(0.9, "CPU"), record(0.9, "GPU")]).endswith("CPU / GPU |")


def test_scores_on_different_copies_of_the_images_are_not_averaged(tables):
    official = record(0.5) | {"data": {"origin": "official archive"}}
    first, second = tables.rows("rotmnist/vit", [record(0.9), official, record(0.9)])
    assert "50.00 | 1" in first and "90.00 ± 0.00 | 2" in second


def test_records_are_found_below_their_experiment_and_nothing_else_is(tables, tmp_path):
    for name in (
        "rotmnist/vit/seed1.json",
        "rotmnist/vit/seed0.json",
        "post_hoc/rotated/none/vote/seed0.json",
        "rotmnist/vit/notes.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(record(0.5)))
    found = tables.by_experiment(tmp_path)
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "post_hoc/rotated/none/vote": ["seed0.json"],
        "rotmnist/vit": ["seed0.json", "seed1.json"],
    }


def test_a_large_family_is_counted_and_a_small_one_named(tables):
    reads = [f"data/results/post_hoc/rotated/all/{k}/seed0.json" for k in range(9)]
    reads += ["data/results/rotmnist/vit/seed0.json", "data/results/rotmnist/vit/seed1.json", "data/results/rotmnist/"]
    assert tables.said(reads) == "`post_hoc/rotated/all/…` (9), `rotmnist/vit`"
    assert tables.said([]) == ""


def test_a_network_that_is_slow_in_the_page_has_no_decimals(tables):
    made = record(0.9472) | {"training_images": 10_000}
    assert tables.browser_row("rotmnist/vit", 3.14, made) == "| `rotmnist/vit` | 12,345 | 94.72 | 10,000 | 3.1 |"
    assert tables.browser_row("rotmnist/vit", 4321.0, made).endswith("| 4,321 |")
