"""The vision transformer in irreducible coordinates against the plain one of the same width, on one thread.

    python benchmarks/octic.py [--rounds 7] [--batch 8]

Writes data/results/benchmarks/octic.json: weights, operations of one image (torch's counter: additions and
multiplications of matrix products, convolutions and attention), images per second of both networks, forward and
training, at widths 192 and 384 on 64×64 and 224×224 images; and where the octic forward pass spends its time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
from itertools import product
from typing import Any

import torch
from rounds import conditions, forward, images_per_second, record_path, training, write
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from e2vit.models import OcticViT, OcticViTConfig, ViT, ViTConfig

SIZES = {64: 8, 224: 16}  # image size → patch size, pixels
HEADS = {192: 3, 384: 6}  # width → heads, as in DeiT's tiny and small
DEPTH, EXPANSION = 12, 4


def operations(model: nn.Module, image: torch.Tensor) -> int:
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **kwargs: mm_flop(a, b)}  # which torch does not count by itself
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops()


def shares(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Share of the forward time of each of torch's operators, those above 2 %."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        forward(model, images)
    times = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    whole = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])
    return {name: round(time / whole, 3) for name, time in largest if time > 0.02 * whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for (side, patch), (width, heads) in product(SIZES.items(), HEADS.items()):
        shape: dict[str, Any] = {"image_size": side, "patch_size": patch, "in_channels": 3, "width": width}
        shape |= {"heads": heads, "depth": DEPTH, "expansion": EXPANSION}
        models = {"octic": OcticViT(OcticViTConfig(**shape)).eval(), "plain": ViT(ViTConfig(**shape)).eval()}
        images = torch.rand(options.batch, 3, side, side)
        row = {
            **shape,
            "weights": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
            "operations": {name: operations(model, images[:1]) for name, model in models.items()},
        }
        for task, rounds in ((forward, options.rounds), (training, max(2, options.rounds // 2))):
            speeds = images_per_second(task, models, images, rounds)
            ratio = float(f"{speeds['octic'] / speeds['plain']:.3g}")
            row[task.__name__] = {"images_per_second": speeds, "ratio": ratio}
        row["octic_forward_shares"] = shares(models["octic"], images)
        print(json.dumps(row), flush=True)
        rows.append(row)
    write(record_path("octic"), {**conditions(), "batch": options.batch, "rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
