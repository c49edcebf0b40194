"""Runs that are killed or meet a full disk lose nothing; wrong input is answered in one sentence."""

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from e2vit.__main__ import main
from e2vit.data import from_folder, from_tensors, load
from e2vit.experiments import EXPERIMENTS, default_mode, find, read_record, records, run
from e2vit.models import ViT, ViTConfig
from e2vit.training import FineTuneConfig, TrainConfig, loop, train

FIRST = EXPERIMENTS["digits/vit"]
SMALL = replace(
    FIRST,
    name="made/small",
    model=ViTConfig(width=16, depth=1, heads=2, dropout=0.1),
    fraction=0.2,
    training=replace(FIRST.training, epochs=3, batch_size=10, warmup_epochs=0.5, test_images=100),
)
linux = pytest.mark.skipif(sys.platform == "win32", reason="not run: processes are forked")
# Forked from a server that has not trained: torch refuses to train in the fork of a process that has.
SERVER = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    SERVER.set_forkserver_preload(["e2vit.experiments"])


@pytest.fixture(autouse=True)
def known(monkeypatch):
    prepare(monkeypatch)


def prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERIMENTS, SMALL.name, SMALL)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)  # a state after every update
    monkeypatch.setattr(records, "_commit", lambda: "unknown")


def begin(results: Path, saves: int | None = None) -> multiprocessing.Process:
    """A process that trains the small run; after so many saved states its disk is full."""
    begun = SERVER.Event()
    process = SERVER.Process(target=_work, args=(results, saves, begun))
    process.start()
    assert begun.wait(120)
    return process


def _work(results: Path, saves: int | None, begun) -> None:
    prepare(pytest.MonkeyPatch())
    begun.set()
    save, count = loop._Run.save, [0]

    def counted(self, *arguments) -> None:
        count[0] += 1
        if count[0] == saves:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        save(self, *arguments)

    loop._Run.save = counted
    try:
        run(SMALL, "train", results=results, progress=False)
    except OSError as reason:
        (results / "said").write_text(str(reason))
        os._exit(3)
    os._exit(0)


def outcome(results: Path) -> tuple:
    record = read_record(SMALL.name, results=results)
    weights = (results / SMALL.name / "seed0.safetensors").read_bytes()
    assert sorted(p.name for p in (results / SMALL.name).iterdir()) == ["seed0.json", "seed0.safetensors"]
    return weights, record["curve"], record["validation"], record["test"], record["chosen_epoch"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[tuple, float]:
    """What an undisturbed run ends with, and its seconds in a process of its own."""
    results, apart = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("apart")
    process, started = begin(apart), time.monotonic()
    process.join()
    seconds = time.monotonic() - started
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, SMALL.name, SMALL)
        run(SMALL, "train", results=results, progress=False)
        return outcome(results), seconds


@linux
def test_a_run_that_is_killed_ten_times_ends_with_the_same_bits(tmp_path, whole):
    """SIGKILL at random moments, within epochs, between them, while a state is written or the test is run."""
    chance, unfinished = random.Random(2026), 0
    for _ in range(10):
        process = begin(tmp_path)
        process.join(chance.uniform(0.2, 0.9) * whole[1])
        process.kill()
        process.join()
        unfinished += bool(list(tmp_path.rglob("*.partial.pt")))
        if (tmp_path / SMALL.name / "seed0.json").exists():  # it ended before it was killed; the next begins anew
            run(SMALL, "train", results=tmp_path, progress=False)  # trains nothing, removes what was left over
            assert outcome(tmp_path) == whole[0]
            for path in (tmp_path / SMALL.name).iterdir():
                path.unlink()
    run(SMALL, "train", results=tmp_path, progress=False)
    assert outcome(tmp_path) == whole[0] and unfinished >= 3
    records.state_path(SMALL, 0, tmp_path / SMALL.name).touch()  # as if killed between its record and its tidying
    (tmp_path / SMALL.name / ".seed0.json.1.tmp").touch()
    run(SMALL, "train", results=tmp_path, progress=False)
    assert outcome(tmp_path) == whole[0]


@linux
@pytest.mark.parametrize("saves", [1, 30])
def test_a_full_disk_leaves_the_last_good_state(saves, tmp_path, whole):
    process = begin(tmp_path, saves)
    process.join(300)
    assert process.exitcode == 3
    said = (tmp_path / "said").read_text()
    states = list((tmp_path / SMALL.name).iterdir())
    assert "partial.pt can't be written: " in said and "\n" not in said
    assert len(states) == (saves > 1) and not any(path.name.startswith(".") for path in states)
    before = [torch.load(path, weights_only=True)["epoch"] for path in states]
    assert before == [1] * len(states)
    run(SMALL, "train", results=tmp_path, progress=False)
    assert outcome(tmp_path) == whole[0]


IMAGES, LABELS = torch.zeros(20, 1, 28, 28), torch.arange(20) % 10
CONFIG = TrainConfig(epochs=1, batch_size=10)


def model() -> ViT:
    return ViT(ViTConfig(width=16, depth=1, heads=2))


def folder_of(path: Path, *sizes: tuple[int, int]) -> Path:
    for label in "ab":
        (path / label).mkdir()
        for number, size in enumerate(sizes):
            Image.new("L", size).save(path / label / f"{number}.png")
    return path


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def record_with(path: Path, content: str) -> None:
    written(path / "rotmnist/vit/seed0.json", content)
    read_record("rotmnist/vit", results=path)


WRONG = {  # the sentence → what is asked; path is an empty folder
    "did you mean rotmnist": lambda path: load("rotmnst"),
    "is damaged or cut short .its MD5": lambda path: (
        written(path / "mnist_rotation_new.zip", "x"),
        load("rotmnist", path),
    ),
    "rsscn7_64.npz is damaged": lambda path: (written(path / "rsscn7/rsscn7_64.npz", "PK"), load("rsscn7", path)),
    "can't be read as images in one folder for each class": lambda path: from_folder(path / "nowhere"),
    "cannot identify image": lambda path: from_folder(written(path / "a" / "x.png", "no image").parents[1]),
    "have 2 sizes, such as .*give image_size=": lambda path: from_folder(folder_of(path, (8, 8), (9, 8))),
    "too few for three splits": lambda path: from_folder(folder_of(path, (8, 8))),
    r"float images lie in \[0, 1\], these in \[0, 255\]": lambda path: from_tensors(
        IMAGES.index_fill(3, LABELS, 255), LABELS
    ),
    "labels are 0 to classes − 1 with every class present": lambda path: from_tensors(IMAGES, LABELS + 1),
    "20 images and 19 labels": lambda path: from_tensors(IMAGES, LABELS[1:]),
    "labels are int64 .*not torch.float32": lambda path: from_tensors(IMAGES, LABELS.float()),
    "images are a tensor .n, channel, height, width.": lambda path: from_tensors(IMAGES[:, 0], LABELS),
    "labels run from 0 to 9, not 1 to 10": lambda path: train(model(), loader(IMAGES, LABELS + 1), loader(), CONFIG),
    "not torch.int32 with shape": lambda path: train(model(), loader(IMAGES, LABELS.int()), loader(), CONFIG),
    "floats up to 255: divide them by 255": lambda path: train(model(), loader(IMAGES + 255), loader(), CONFIG),
    "images are uint8 or floats, not torch.int64": lambda path: train(model(), loader(IMAGES.long()), loader(), CONFIG),
    "at least one training image": lambda path: train(model(), loader(IMAGES[:0], LABELS[:0]), loader(), CONFIG),
    "at least one validation image": lambda path: train(model(), loader(), [], CONFIG),
    "training needs validation images": lambda path: train(model(), loader(), config=CONFIG),
    "optimizer is one of adamw, adam, muon": lambda path: TrainConfig(optimizer="sgd"),
    "learning_rate is a finite number above 0": lambda path: TrainConfig(learning_rate=float("nan")),
    "epochs starts at 1, got 0": lambda path: FineTuneConfig(epochs=0),
    "there is no record of rotmnist/vit, seed 0; python": lambda path: read_record("rotmnist/vit", results=path),
    "seed0.json is not a valid record": lambda path: record_with(path, "{"),
    "not a valid record: KeyError 'configuration'": lambda path: record_with(path, "{}"),
    "not a valid record: .*list": lambda path: record_with(path, "[]"),
    "did you mean rotmnist/vit": lambda path: find("rotmnist/vti"),
    "mode is one of quick, report, train": lambda path: run("digits/vit", "fast"),
    "a seed is a whole number from 0 on": lambda path: run("digits/vit", seed=-1),
}


def loader(images=IMAGES, labels=LABELS) -> list:
    """A DataLoader as simple as can be: the batches in a list."""
    return [(images, labels)]


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_input_is_answered_in_one_sentence(sentence, tmp_path):
    with pytest.raises(Exception, match=sentence) as reason:
        WRONG[sentence](tmp_path)
    assert "\n" not in str(reason.value) and type(reason.value).__name__ in (
        "DataError",
        "RecordError",
        "ValueError",
        "KeyError",
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["rotmnist/vti"], "did you mean rotmnist/vit"),
        ([], "name the experiments"),
        (["digits/vit", "--seeds", "0"], "--seeds counts seeds and starts at 1, got 0"),
        (["digits/vit", "--seeds", "-1"], "--seeds counts seeds and starts at 1, got -1"),
        (["digits/vit", "--seed", "-1"], "--seed is a whole number from 0 on, got -1"),
        (["digits/vit", "--budget-minutes", "-3"], "--budget-minutes is a number from 0 on, got -3"),
        (["digits/vit", "--budget-minutes", "nan"], "--budget-minutes is a number from 0 on, got nan"),
    ],
)
def test_the_command_line_answers_wrong_input_in_one_line(arguments, sentence, capsys):
    assert main(["run", *arguments]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_mode_of_the_environment_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("E2VIT_MODE", "fast")
    with pytest.raises(ValueError, match="mode is one of quick, report, train, not 'fast'"):
        default_mode()
