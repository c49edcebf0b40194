"""Training throughput of our plain ViT against timm's of the same shape: same batch, same process, turn by turn.

    python benchmarks/vit.py

Needs timm (pip install -e .[bench]). Prints both and their ratio, and writes data/results/benchmarks/vit.json.
"""

import json
import platform
import statistics
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from e2vit.models import ViT, ViTConfig
from e2vit.training.loop import write_atomically

ROUNDS, BATCH = 15, 64


def step(model, optimizer, images, labels) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = ViTConfig()
    models = {
        "e2vit": ViT(config),
        "timm": timm.models.VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=config.in_channels,
            num_classes=config.classes,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.expansion,
            global_pool="avg",
            class_token=False,
            fc_norm=False,
        ),
    }
    images, labels = torch.rand(BATCH, 1, 28, 28, device=device), torch.randint(10, (BATCH,), device=device)
    optimizers = {name: torch.optim.AdamW(model.to(device).parameters()) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 3):
        for name, model in models.items():
            taken = step(model, optimizers[name], images, labels)
            if turn >= 3:  # the first turns warm up
                seconds[name].append(taken)
    ratio = statistics.median(t / e for t, e in zip(seconds["timm"], seconds["e2vit"], strict=True))
    record = {
        "what": "training step of a plain ViT, images per second",
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "batch": BATCH,
        "rounds": ROUNDS,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "images_per_second": {name: round(BATCH / statistics.median(times)) for name, times in seconds.items()},
        "ratio": round(ratio, 3),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    print(json.dumps(record, indent=1))
    path = Path(__file__).resolve().parents[1] / "data" / "results" / "benchmarks" / "vit.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: Path(file).write_text(json.dumps(record, indent=1) + "\n"))


if __name__ == "__main__":
    main()
