"""The networks of the chapter on real images: seconds of a training update, and what a turn does to their answers.

    python benchmarks/real.py [--rounds 7]

Needs the trained networks: set E2VIT_RESULTS to the folder of records that holds their weights. Writes
data/results/benchmarks/real.json: for each network the seconds of one update with 16 galaxies on one thread; and for
each that was trained on all images, without augmentation and with any angle, or with D4 where it knows no other, on
the test images of its fold, the accuracy as loaded and over the eight elements of D4, the share of images whose answer
some element changes, and the invariance error in double precision.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rounds import conditions, images_per_second, training, write

from e2vit.data import load
from e2vit.experiments import EXPERIMENTS, build, run, seeds_present
from e2vit.experiments.real import AUGMENTED
from e2vit.training import TrainConfig
from e2vit_book.real.measure import DATA, NETWORKS, under_turns

AUGMENTATIONS = dict.fromkeys(AUGMENTED, ("none", "dihedral")) | {"vit-views": ("none",)}


def seconds_of_updates(rounds: int) -> dict[str, float]:
    experiments = {name: EXPERIMENTS[f"real/mirabest/{name}/d4-100"] for name in NETWORKS}
    trained = {name: each for name, each in experiments.items() if isinstance(each.training, TrainConfig)}
    models = {name: build(each, 0) for name, each in trained.items()}
    images = torch.rand(16, 1, 64, 64)
    speeds = images_per_second(training, models, images, rounds)
    return {name: float(f"{len(images) / speed:.3g}") for name, speed in speeds.items()}


def turned() -> list[dict[str, Any]]:
    rows = []
    for data in DATA:
        for network in NETWORKS:
            for augment in AUGMENTATIONS.get(network, ("d4",)):
                name = f"real/{data}/{network}/{augment}-100"
                for fold in seeds_present(name) if name in EXPERIMENTS else []:
                    model = run(name, seed=fold).model.eval()
                    found = under_turns(model, load(EXPERIMENTS[name].data.format(seed=fold)).test)
                    rows.append({"data": data, "network": network, "augmentation": augment, "fold": fold, **found})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = Path(__file__).parents[1] / "data" / "results" / "benchmarks" / "real.json"
    seconds = seconds_of_updates(options.rounds)
    print(seconds, flush=True)
    write(path, {**conditions(), "batch": 16, "seconds_of_an_update": seconds, "turned": turned()})


if __name__ == "__main__":
    main()
