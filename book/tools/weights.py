"""Copies trained networks from data/results into the package: src/e2vit/weights, for e2vit.load.

python book/tools/weights.py
"""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = ROOT / "src" / "e2vit" / "weights"
NETWORKS = {  # name for e2vit.load → experiment, whose seed 0 is taken
    "gcnn-p4cnn": "rotmnist/gcnn-p4cnn",
    "hybrid-c4": "rotmnist/hybrid-c4",
    "hybrid-c4-upright": "rotmnist_upright/hybrid-c4",
    "vit": "rotmnist/vit",
    "vit-upright": "rotmnist_upright/vit",
}


def files(experiment: str) -> tuple[str, Path]:
    """The text of config.json, and the checkpoint."""
    record = ROOT / "data" / "results" / experiment / "seed0.json"
    said = json.loads(record.read_text(encoding="utf-8"))
    config = {
        "model": said["configuration"]["model_type"].removesuffix("Config"),
        "config": said["configuration"]["model"],
        "trained": {"experiment": experiment, "seed": 0, "test_accuracy": said["test"]["accuracy"]},
    }
    return json.dumps(config, indent=1) + "\n", record.with_suffix(".safetensors")


if __name__ == "__main__":
    shutil.rmtree(PACKAGED, ignore_errors=True)
    for name, experiment in NETWORKS.items():
        (PACKAGED / name).mkdir(parents=True)
        text, checkpoint = files(experiment)
        (PACKAGED / name / "config.json").write_text(text, encoding="utf-8")
        shutil.copyfile(checkpoint, PACKAGED / name / "model.safetensors")
