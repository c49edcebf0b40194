"""What each model of the headline costs and keeps: images per second, attention scores, change under a quarter turn.

    python benchmarks/throughput.py [--write] [--batch 8] [--rounds 7]
    python benchmarks/throughput.py --refresh      # after new records: their change; all, when a row is new

All models in one process, turn by turn, forward in float32 on the same images; experiments that share a model share its
numbers. The change is that of the logits, max |f(gx) − f(x)| / max |f(x)| over quarter turns g and 32 embedded digits,
in float64: once with the weights of the first record, where there is one, and once with every weight redrawn, since
weights that start at zero hide a broken symmetry.
--write keeps the numbers in data/results/benchmarks/throughput.json.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when numba is imported

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rounds import conditions, forward, images_per_second, record_path, write
from torch import nn

from e2vit.actions import invariance_error
from e2vit.data import as_float, embedded
from e2vit.experiments import RecordError, read_record, run, seeds_present
from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.experiments.configuration import plain
from e2vit.groups import cyclic
from e2vit.testing import randomized

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "tools"))
from shown import ROWS  # noqa: E402


def change(model: nn.Module) -> float:
    """How far a quarter turn moves the logits, relative to the largest, in float64 on the CPU."""
    digits = as_float(embedded("rotmnist").test.images[:32]).double()
    return invariance_error(model.double().eval(), digits, cyclic(4))


def counted(model: nn.Module, config: Any) -> dict[str, Any]:
    """All that depends on neither clock nor training."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "attention_scores": config.attention_scores,
        "change_redrawn": change(randomized(model)),
    }


def trained(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """The change with the weights of the first record, measured unless it is known; empty where there is no record."""
    for seed in seeds_present(name):
        try:
            weights = {"seed": seed, "checkpoint_sha256": read_record(name, seed)["checkpoint_sha256"]}
            if known.get("weights") == weights:
                return {key: known[key] for key in ("change_trained", "weights")}
            return {"change_trained": change(run(name, seed=seed).model), "weights": weights}
        except RecordError as reason:
            print(f"{reason}; passed over", file=sys.stderr)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the numbers for the headline")
    parser.add_argument("--refresh", action="store_true", help="measure what new records have changed, and keep it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    path = record_path("throughput")
    record = json.loads(path.read_text(encoding="utf-8")) if options.refresh else {"models": {}}
    if ROWS.keys() <= record["models"].keys():
        record["models"] = {name: entry for name, entry in record["models"].items() if name in ROWS}
        for name, entry in record["models"].items():
            fresh = {key: value for key, value in entry.items() if key not in ("change_trained", "weights")}
            record["models"][name] = fresh | trained(name, entry)
    else:
        record = measured(options.batch, options.rounds)
    for name, entry in record["models"].items():
        print(name, json.dumps(entry))
    if options.write or options.refresh:
        write(path, record)


def measured(batch: int, rounds: int) -> dict[str, Any]:
    """The whole record."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    names = {name: json.dumps(plain(EXPERIMENTS[name].model), sort_keys=True) for name in ROWS}
    first = {key: name for name, key in reversed(names.items())}  # configuration → the experiment that stands for it
    models = {key: build(EXPERIMENTS[name], 0).to(device) for key, name in first.items()}
    speeds = images_per_second(forward, models, torch.rand(batch, 1, 28, 28, device=device), rounds)
    shared = {
        key: {"images_per_second": speeds[key], **counted(model.cpu(), EXPERIMENTS[first[key]].model)}
        for key, model in models.items()
    }
    return {
        "what": "forward images per second in float32, all models turn by turn; attention scores of one image; change "
        "of the logits under quarter turns, float64",
        "date": date.today().isoformat(),
        **conditions(),
        "batch": batch,
        "rounds": rounds,
        "models": {name: {**shared[key], **trained(name, {})} for name, key in names.items()},
    }


if __name__ == "__main__":
    main()
