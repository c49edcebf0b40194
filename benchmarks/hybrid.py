"""Speed of our networks against others of the same shape: our group convolutions against escnn's with the same group,
fields, kernels and pools; the whole C4 hybrid against GE-ViT with our fast kernel; our plain ViT against timm's.

    pip install -e .[bench]
    python benchmarks/hybrid.py [--against escnn gevit timm]

Writes data/results/benchmarks/hybrid.json: images per second, forward and training, and the ratio of the first network
to the second.
"""

import argparse
import json

import torch
from rounds import conditions, forward, images_per_second, record_path, training, write
from torch import nn

from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.groups import cyclic
from e2vit.models import ViT, ViTConfig
from e2vit.models.hybrid import HybridViTConfig, make_stem

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


def against_escnn() -> dict[str, nn.Module]:
    return {"ours": Ours(), "escnn": Escnn()}


def against_gevit() -> dict[str, nn.Module]:
    names = {"hybrid-c4": "rotmnist/hybrid-c4", "gevit-c4": "rotmnist/gevit-c4-tenth"}
    return {name: build(EXPERIMENTS[experiment], 0) for name, experiment in names.items()}


def against_timm() -> dict[str, nn.Module]:
    from timm.models import VisionTransformer

    c = ViTConfig()
    shape = {"img_size": c.image_size, "patch_size": c.patch_size, "in_chans": c.in_channels, "num_classes": c.classes}
    shape |= {"embed_dim": c.width, "depth": c.depth, "num_heads": c.heads, "mlp_ratio": c.expansion}
    return {"e2vit": ViT(c), "timm": VisionTransformer(**shape, global_pool="avg", class_token=False, fc_norm=False)}


PAIRS = {"escnn": against_escnn, "gevit": against_gevit, "timm": against_timm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--against", nargs="+", choices=PAIRS, default=list(PAIRS))
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = record_path("hybrid")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}  # what is not measured again stays
    for other in options.against:
        models, images = PAIRS[other](), torch.randn(options.batch, 1, 28, 28)
        rounds = max(options.rounds // 5, 1) if other == "gevit" else options.rounds
        record[other] = {**conditions(), "batch": options.batch, "rounds": rounds}
        record[other]["parameters"] = {
            name: sum(p.numel() for p in model.parameters()) for name, model in models.items()
        }
        for task in (forward, training):
            speeds = images_per_second(task, models, images, rounds)
            first, second = speeds.values()
            record[other][task.__name__] = {"images_per_second": speeds, "ratio": float(f"{first / second:.3g}")}
            print(other, task.__name__, record[other][task.__name__])
    write(path, record)


if __name__ == "__main__":
    main()
