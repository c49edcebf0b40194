"""Copies trained networks from data/results into the package: src/e2vit/weights, for e2vit.load.

python book/tools/weights.py
"""

import json
import shutil
from pathlib import Path

from shown import PACKAGED

from e2vit.experiments import EXPERIMENTS, configuration

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src" / "e2vit" / "weights"


def files(experiment: str) -> tuple[str, Path]:
    """Return the text of config.json, and the checkpoint of seed 0."""
    record = ROOT / "data" / "results" / experiment / "seed0.json"
    said = json.loads(record.read_text(encoding="utf-8"))
    config = {
        "model": said["configuration"]["model_type"].removesuffix("Config"),
        "config": configuration.plain(EXPERIMENTS[experiment].model),
        "trained": {"experiment": experiment, "seed": 0, "test_accuracy": said["test"]["accuracy"]},
    }
    return json.dumps(config, indent=1) + "\n", record.with_suffix(".safetensors")


if __name__ == "__main__":
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    for name, experiment in PACKAGED.items():
        (WEIGHTS / name).mkdir(parents=True)
        text, checkpoint = files(experiment)
        (WEIGHTS / name / "config.json").write_text(text, encoding="utf-8")
        shutil.copyfile(checkpoint, WEIGHTS / name / "model.safetensors")
