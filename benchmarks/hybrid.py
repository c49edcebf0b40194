"""Speed of our group convolutions against escnn, with the same group, fields, kernels and pools; and of the whole C4
hybrid against GE-ViT with our fast kernel. Each pair in one process.

    pip install escnn
    python benchmarks/hybrid.py [--against escnn gevit]

Writes data/results/benchmarks/hybrid.json: images per second, forward and training, and the ratios. Every measurement
is the best of several rounds that take turns, so that a busy moment of the machine hurts neither side alone.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.experiments.records import processor, results_folder
from e2vit.groups import cyclic
from e2vit.models.hybrid import HybridViTConfig, make_stem
from e2vit.training.loop import write_atomically

WIDTHS, KERNEL, CLASSES = (8, 24, 32), 5, 10


class Ours(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = make_stem(HybridViTConfig(group=cyclic(4), stem=WIDTHS, kernel=KERNEL, width=32, heads=2))
        self.head = nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, images):
        return self.head(self.stem(images).amax(2).mean((-2, -1)))


class Escnn(nn.Module):
    def __init__(self):
        super().__init__()
        from escnn import gspaces
        from escnn import nn as enn

        space = gspaces.rot2dOnR2(4)
        self.wrap, self.input = enn.GeometricTensor, enn.FieldType(space, [space.trivial_repr])
        layers, before = [], self.input
        for number, width in enumerate(WIDTHS):
            after = enn.FieldType(space, width * [space.regular_repr])
            layers += [enn.R2Conv(before, after, KERNEL, padding=KERNEL // 2, bias=False), enn.InnerBatchNorm(after)]
            layers += [enn.ReLU(after, inplace=False)]
            layers += [enn.PointwiseMaxPool(after, 2)] if number < len(WIDTHS) - 1 else [enn.GroupPooling(after)]
            before = after
        self.layers, self.head = enn.SequentialModule(*layers), nn.Linear(WIDTHS[-1], CLASSES)

    def forward(self, images):
        return self.head(self.layers(self.wrap(images, self.input)).tensor.mean((-2, -1)))


def forward(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    with torch.no_grad():
        model(images)


def training(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()


def best_seconds(task: Callable, models: dict[str, nn.Module], batch: int, rounds: int) -> dict[str, float]:
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(CLASSES, (batch,))
    best = dict.fromkeys(models, float("inf"))
    for model in models.values():
        model.train(task is training)
        task(model, images, labels)
    for _ in range(rounds):
        for name, model in models.items():
            started = time.process_time()
            task(model, images, labels)
            best[name] = min(best[name], time.process_time() - started)
    return best


def compared(models: dict[str, nn.Module], batch: int, rounds: int) -> dict:
    """Images per second of two models, forward and training, and the ratio of the first to the second."""
    result = {
        "batch": batch,
        "rounds": rounds,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
    }
    for task in (forward, training):
        seconds = best_seconds(task, models, batch, rounds)
        speeds = {name: float(f"{batch / value:.4g}") for name, value in seconds.items()}
        first, second = speeds.values()
        result[task.__name__] = {"images_per_second": speeds, "ratio": float(f"{first / second:.3g}")}
        print(task.__name__, result[task.__name__])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--against", nargs="+", choices=("escnn", "gevit"), default=["escnn", "gevit"])
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = results_folder() / "benchmarks" / "hybrid.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # what is not measured again stays
    for other in options.against:
        if other == "escnn":
            models, rounds = {"ours": Ours(), "escnn": Escnn()}, options.rounds
        else:
            models = {name: build(EXPERIMENTS[f"rotmnist/{name}"], 0) for name in ("hybrid-c4", "gevit-c4")}
            rounds = max(options.rounds // 5, 1)
        result[other] = {
            "device": f"{processor()}, 1 thread",
            "clock": "processor time of the process",
            "torch": torch.__version__,
            **compared(models, options.batch, rounds),
        }
    write_atomically(path, lambda file: Path(file).write_text(json.dumps(result, indent=1) + "\n", "utf-8"))


if __name__ == "__main__":
    main()
