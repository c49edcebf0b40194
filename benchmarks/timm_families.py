"""Whether every family of timm can be symmetrized: python benchmarks/timm_families.py [--minutes 25] [family ...]

One model of each family, the smaller of two candidates, with random weights (no download), each in a process of its own
with a limit of time. Three numbers: the relative error of the feature mean over C1 against the model itself, or the
sentence that refuses it; the relative change of the mean of logits over D4 under a mirrored quarter turn; and processor
seconds. float32, one thread, two blocks where the family has such an option, the smallest image size that it takes.
Families that are in the file already are not measured again; name one to do so.
"""

import argparse
import json
import multiprocessing
import re
import resource
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from e2vit.actions import invariance_error
from e2vit.experiments import results_folder
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized

RESULT = results_folder() / "benchmarks" / "timm_families.json"
SMALL = (
    "test atto femto pico nano xxxs xxs xs xt tiny mini zepto lite _t_ _ti small _s 035 050 b0 a0 t0 m0 s0 10 14 18 19"
)
SECONDS = 60  # of the processor, for each family


def candidates(family: str) -> list[str]:
    """Two models whose names sound small."""
    names = timm.list_models(module=family)
    words = SMALL.split()

    def rank(name: str) -> tuple[int, int]:
        found = [place for place, word in enumerate(words) if re.search(word, f"{name}_")]
        large = sum(int(n) > 260 for n in re.findall(r"\d{3}", name))
        return large, min(found, default=len(words))

    return sorted(names, key=rank)[:2]


def smallest(family: str) -> str:
    """Return the candidate with the fewest parameters."""

    def size(name: str) -> float:
        try:
            with torch.device("meta"):
                return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
        except Exception:  # models that compute with numbers while they are built
            return float("inf")

    return min(candidates(family), key=size)


def kind_of(model: nn.Module) -> str:
    """By the layers: attention, and more convolutions wider than a pixel than the one that makes patches."""
    attention = any(
        "attention" in type(m).__name__.lower() or "attn" in type(m).__name__.lower() for m in model.modules()
    )
    wide = sum(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in model.modules())
    if attention:
        return "vision transformer" if wide < 2 else "hybrid"
    return "convolutional" if wide > 1 else "other"


@torch.no_grad()
def first_accepted(model: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Two images, as small as the model takes them."""
    for pixels in (96, 128, 160):
        try:
            images = torch.rand(2, size[0], pixels, pixels)
            model(images)
            return images
        except Exception:  # a fixed size, or windows that do not fit
            continue
    return torch.rand(2, *size)


def measure(family: str, queue) -> None:
    started = time.process_time()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    name = smallest(family)
    try:
        model, depth = timm.create_model(name, pretrained=False, num_classes=7, depth=2).eval(), "2"
    except Exception:  # a family without that option
        model, depth = timm.create_model(name, pretrained=False, num_classes=7).eval(), "all"
    with torch.no_grad():  # heads and branches that start at zero hide nothing then
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    config = model.pretrained_cfg
    images = first_accepted(model, config["input_size"])
    result = {
        "model": name,
        "blocks": depth,
        "kind": kind_of(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "pixels": images.shape[-1],
    }
    with torch.no_grad():
        try:
            wrapped, expected = Symmetrized(model, cyclic(1), "feature_mean", example=images), model(images)
            result["features over C1"] = ((wrapped(images) - expected).abs().max() / expected.abs().max()).item()
        except ValueError as reason:
            result["features over C1"] = str(reason)
        try:
            error = invariance_error(Symmetrized(model, dihedral(4)), images[:1], dihedral(4), [5])
            result["logits over D4"] = error
        except ValueError as reason:
            result["logits over D4"] = str(reason)
    queue.put(result | {"seconds": round(time.process_time() - started, 1)})


def in_a_process(family: str) -> dict:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=measure, args=(family, queue))
    process.start()
    process.join()
    return {"failed": f"ended with code {process.exitcode}"} if queue.empty() else queue.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*")
    parser.add_argument("--minutes", type=float, default=25)
    options = parser.parse_args()
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    deadline = time.monotonic() + 60 * options.minutes
    for family in options.families or [family for family in timm.list_modules() if family not in found]:
        if time.monotonic() > deadline:
            break
        found[family] = in_a_process(family)
        print(family, found[family], flush=True)
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False)
        Path(RESULT).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
