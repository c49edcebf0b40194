"""Networks with trained weights: the package carries them, folders keep one's own, wrong files are one sentence."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import weights
from PIL import Image
from shown import PACKAGED

import e2vit
from conftest import ROOT
from e2vit import models, pretrained
from e2vit.experiments import run
from e2vit.groups import dihedral, from_matrices, gevit_index
from e2vit.testing import randomized


@pytest.mark.parametrize("name", PACKAGED)
@torch.no_grad()
def test_the_package_carries_the_networks_of_the_records(name):
    text, checkpoint = weights.files(PACKAGED[name])
    folder = pretrained.WEIGHTS / name
    assert (folder / "config.json").read_text(encoding="utf-8") == text, "run python book/tools/weights.py"
    assert (folder / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(e2vit.load(name)(images), run(PACKAGED[name]).model(images))


def test_the_package_carries_nothing_else():
    assert pretrained.available() == sorted(PACKAGED) == sorted(p.name for p in pretrained.WEIGHTS.iterdir())
    with pytest.raises(ValueError, match="'resnet'; there are gcnn-p4cnn, "):
        e2vit.load("resnet")


CONFIGS = {
    "ViT": {},
    "HybridViT": {"group": dihedral(4), "stem": (4, 8, 8), "width": 8},
    "GCNN": {},
    "GroupAttentionNet": {"index": gevit_index, "channels": 8, "heads": 2, "window": 3},
    "PooledHybrid": {},
    "Transformer": {},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_comes_back(name, tmp_path):
    config = getattr(models, f"{name}Config")(**CONFIGS[name])
    model = randomized(getattr(models, name)(config)).float()
    e2vit.save_pretrained(model, tmp_path / "own")
    again = e2vit.from_pretrained(tmp_path / "own")
    assert again.config == config and not again.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


OLDER = {  # model → its configuration, and a name of today with the one that it had
    "GroupAttentionNet": (CONFIGS["GroupAttentionNet"] | {"position": "stable"}, '"stable"', '"sound"'),
    "ViT": ({"in_channels": 3}, '"in_channels"', '"channels"'),
}


@pytest.mark.parametrize("name", OLDER)
def test_what_an_older_version_saved_comes_back(name, tmp_path):
    fields, now, before = OLDER[name]
    config = getattr(models, f"{name}Config")(**fields)
    e2vit.save_pretrained(getattr(models, name)(config), tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert now in text
    (tmp_path / "config.json").write_text(text.replace(now, before), encoding="utf-8")
    assert e2vit.from_pretrained(tmp_path).config == config


def test_what_is_no_model_is_one_sentence(tmp_path):
    with pytest.raises(TypeError, match="Linear is not a configured model"):
        e2vit.save_pretrained(torch.nn.Linear(2, 2), tmp_path)
    group = from_matrices("Q", dihedral(2).matrices)
    with pytest.raises(ValueError, match="neither"):
        e2vit.save_pretrained(models.GCNN(models.GCNNConfig(group=group)), tmp_path)
    with pytest.raises(ValueError, match="config.json is missing"):
        e2vit.from_pretrained(tmp_path / "absent")
    e2vit.save_pretrained(models.ViT(models.ViTConfig(width=8, depth=1)), tmp_path)
    text = (tmp_path / "config.json").read_text()
    for wrong in (text.replace('"width"', '"girth"'), text.replace('"ViT"', '"ResNet"'), text[:20], "[]"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match="not a configuration"):
            e2vit.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"width": 8', '"width": 16'))
    with pytest.raises(ValueError, match="does not hold the weights"):
        e2vit.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="does not hold the weights"):
        e2vit.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """What pip would install: the contents of a wheel built from a copy of the source."""
    copy, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(installed), str(copy)], check=True, stdin=subprocess.DEVNULL, timeout=120)
    return installed


def test_the_wheel_carries_the_library_its_types_and_its_weights(wheel):
    top = {path.name for path in wheel.iterdir()}
    assert {"e2vit", f"e2vit-{e2vit.__version__}.dist-info"} == top
    files = {path.relative_to(wheel / "e2vit").as_posix() for path in (wheel / "e2vit").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    tracked = subprocess.run(["git", "ls-files", "src/e2vit"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert files == {name.removeprefix("src/e2vit/") for name in tracked.stdout.split()}


def test_the_examples_of_the_readme_run_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(first.splitlines()) == 5 and len(second.splitlines()) == 10
    for label, gray in (("dark", 40), ("light", 200)):
        for number in range(20):
            path = tmp_path / "images" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(gray - 40, gray + 40, (28, 28), np.uint8)).save(path)
    code = "\n".join(["import e2vit", "print(e2vit.__file__)", first, second.replace("epochs=30", "epochs=1")])
    environment = {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, answers, change, *_, trained = done.stdout.splitlines()
    assert where.startswith(str(wheel)) and len(json.loads(answers)) == 8 and float(change) < 1e-4
    assert re.search(r"\((1\.0|0\.\d+), \(0\.\d+, (1\.0|0\.\d+)\)\)$", trained), trained
