"""Exports the networks of the live page, from their committed checkpoints, into book/_static/vendor/live.

    python book/tools/live.py             what is missing or was made from something else
    python book/tools/live.py --digits    draws the test digits that the page offers: book/_static/live/digits.json

The files are not in git. models.json beside them names the checkpoint of each, by its checksum, and the accuracy that
its record holds. Without torch and onnx this command says so, and the page says that its networks are missing.
"""

import argparse
import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shown import LIVE as MODELS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "_static" / "vendor" / "live"
DIGITS = ROOT / "book" / "_static" / "live" / "digits.json"
NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")
EACH = 2  # digits of each class: the first ones in the test set


def made_from(experiment: str) -> str:
    """sha256 of a checkpoint and of the code that exports it."""
    checkpoint = ROOT / "data" / "results" / experiment / "seed0.safetensors"
    exporter = ROOT / "src" / "e2vit" / "export.py"
    return hashlib.sha256(checkpoint.read_bytes() + exporter.read_bytes()).hexdigest()


def entry(name: str, experiment: str) -> dict:
    """What the page needs to know of a network."""
    record = json.loads((ROOT / "data" / "results" / experiment / "seed0.json").read_text(encoding="utf-8"))
    return {
        "experiment": experiment,
        "file": f"{name}.onnx",
        "bytes": (FOLDER / f"{name}.onnx").stat().st_size,
        "accuracy": record["test"]["accuracy"],
        "made_from": made_from(experiment),
    }


def missing() -> list[str]:
    """The networks that have no file, or one that was made from something else."""
    path = FOLDER / "models.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [
        name
        for name, experiment in MODELS.items()
        if not (FOLDER / f"{name}.onnx").exists() or made.get(name, {}).get("made_from") != made_from(experiment)
    ]


def export(name: str) -> str:
    """Exports one network in a process of its own. Returns what went wrong, or nothing."""
    command = [sys.executable, "-m", "e2vit", "export", MODELS[name], str(FOLDER / f"{name}.onnx")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""


def export_missing() -> int:
    if not (names := missing()):
        return 0
    refused = 1 if os.environ.get("E2VIT_REQUIRE_ALL") else 0
    if absent := [package for package in NEEDED if importlib.util.find_spec(package) is None]:
        print(f"{', '.join(absent)} missing: the live page comes without its networks", file=sys.stderr)
        return refused
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        reasons = {name: reason for name, reason in zip(names, pool.map(export, names), strict=True) if reason}
    for name, reason in reasons.items():
        print(f"the live page comes without {name}: {reason}", file=sys.stderr)
    there = {name: entry(name, experiment) for name, experiment in MODELS.items() if name not in reasons}
    (FOLDER / "models.json").write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")
    print(f"exported for the live page: {', '.join(name for name in names if name not in reasons) or 'nothing'}")
    return refused if reasons else 0


def draw_digits() -> int:
    """The first digits of each class in the test set, so that nobody chose them."""
    from e2vit.data import load

    splits = load("rotmnist")
    labels = splits.test.labels.tolist()
    chosen = [[index for index, label in enumerate(labels) if label == digit][:EACH] for digit in range(10)]
    digits = [
        {
            "label": labels[index],
            "index": index,
            "pixels": base64.b64encode(splits.test.images[index, 0].numpy().tobytes()).decode(),
        }
        for indices in chosen
        for index in indices
    ]
    lines = ",\n".join(json.dumps(digit) for digit in digits)
    DIGITS.write_text(f'{{"origin": {json.dumps(splits.origin)}, "digits": [\n{lines}\n]}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", action="store_true", help="draw the test digits anew")
    sys.exit(draw_digits() if parser.parse_args().digits else export_missing())
