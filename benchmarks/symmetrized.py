"""What symmetrizing costs: python benchmarks/symmetrized.py [--write]

Processor seconds of one thread; base and wrappers take turns, the best of several rounds. Efficiency is the base's time
for n·B images over the wrapper's for B images of n views: 1 is perfect. Peak memory is that of a fresh process. --write
keeps the numbers where the post-hoc chapter reads them.
"""

import argparse
import platform
import subprocess
import sys
from datetime import date

import torch
from rounds import alternate, record_path, write

from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized, ViT, ViTConfig
from e2vit.models.symmetrized import AGGREGATES


def measure(group, interpolation, config: ViTConfig, count: int, rounds: int) -> dict[str, float]:
    """Milliseconds per image of the base and of every aggregate."""
    base = ViT(config).eval()
    images = torch.rand(count, config.in_channels, config.image_size, config.image_size)
    many = torch.rand(count * group.order, *images.shape[1:])
    models = {name: Symmetrized(base, group, name, interpolation=interpolation).eval() for name in AGGREGATES}
    calls = {name: lambda model=model: model(images) for name, model in models.items()}
    with torch.inference_mode():
        seconds = alternate({"base": lambda: base(many), **calls}, rounds)
    return {name: 1000 * s / (len(many) if name == "base" else count) for name, s in seconds.items()}


def peak_megabytes(chunk: int | None) -> float | None:
    """Peak memory, above what it starts with, of a fresh process that classifies 256 images of 16 views; Linux only."""
    code = f"""
import pathlib, torch
from e2vit.groups import cyclic
from e2vit.models import Symmetrized, ViT
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
torch.set_num_threads(1)
model = Symmetrized(ViT(), cyclic(16), interpolation="bilinear", chunk={chunk}).eval()
with torch.inference_mode():
    model(torch.rand(4, 1, 28, 28))
    pathlib.Path("/proc/self/clear_refs").write_text("5")    # the peak begins anew
    before = peak()
    model(torch.rand(256, 1, 28, 28))
print(peak() - before)
"""
    if not sys.platform.startswith("linux"):
        return None
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the numbers for the book")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "digits, C16": (cyclic(16), "bilinear", ViTConfig(), 8),
        "color, D4": (dihedral(4), None, ViTConfig(image_size=64, in_channels=3, classes=7, patch_size=8), 8),
    }
    result = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "threads": 1,
        "torch": torch.__version__,
        "milliseconds": {},
        "peak_megabytes": {},
    }
    for name, (group, interpolation, config, count) in settings.items():
        result["milliseconds"][name] = measured = measure(group, interpolation, config, count, options.rounds)
        print(f"{name}: base {measured['base']:.3f} ms an image")
        for aggregate, milliseconds in list(measured.items())[1:]:
            print(
                f"  {aggregate:20} {milliseconds:8.3f} ms  efficiency "
                f"{measured['base'] * group.order / milliseconds:.3f}"
            )
    for chunk in (None, 1024, 256, 64):
        result["peak_megabytes"][str(chunk)] = peak = peak_megabytes(chunk)
        print(f"chunk {chunk}: {peak and round(peak)} MB above the start")
    if options.write:
        write(record_path("symmetrized"), result)


if __name__ == "__main__":
    main()
