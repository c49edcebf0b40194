"""States of unfinished runs that are damaged, and good ones that only can't be read just now."""

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from disturbing import SMALL, outcome, work
from test_fuzz import damaged

from e2vit.data import embedded
from e2vit.experiments.catalog import build
from e2vit.training import state as run_state
from e2vit.training.loop import DamagedState, train

STATE = "seed0.*.partial.safetensors"


@pytest.fixture(scope="module")
def begun(tmp_path_factory, log):
    """A folder in which a run was killed late: its newest state is there, and the one before."""
    results = tmp_path_factory.mktemp("begun")
    assert work(results, log, "kill", 1, only="seed0.safetensors") < 0  # when it was about to write its checkpoint
    assert {path.suffix for path in (results / SMALL.name).glob("seed0.*.partial.*")} == {".safetensors", ".previous"}
    return results


@pytest.fixture
def copy(begun, tmp_path):
    def make(name: str = "copy") -> tuple[Path, Path]:
        shutil.copytree(begun, tmp_path / name)
        (state,) = (tmp_path / name / SMALL.name).glob(STATE)
        return tmp_path / name, state

    return make


@pytest.mark.parametrize("tries", [4, pytest.param(300, marks=pytest.mark.soak)])
def test_a_damaged_state_is_named_and_the_run_ends_with_the_same_bits(tries, copy, log, whole):
    """Bits turned anywhere, pieces cut off, doubled or left out; in the newest state, and at times in both."""
    chance = random.Random(tries)
    for number in range(tries):
        results, state = copy(str(number))
        for path in (state, state.with_suffix(".previous"))[: 1 + (number % 4 == 3)]:
            good = path.read_bytes()
            while (bad := damaged(good, chance)) == good:
                pass
            path.write_bytes(bad)
        before = log.stat().st_size
        assert work(results, log) == 0
        assert outcome(results) == whole
        said = log.read_text()[before:]
        assert f"{state} is no state of this run" in said and f"set aside as {state.stem}.damaged" in said
        shutil.rmtree(results)


def test_one_bit_in_the_weights_is_damage(copy):
    """What the format itself would let through: every number is there, and one is another."""
    results, state = copy()
    data = bytearray(state.read_bytes())
    data[-100] ^= 1
    state.write_bytes(data)
    run = small_run()
    with pytest.raises(DamagedState, match="checksum"):
        run.restore(state)
    run.restore(state.with_suffix(".previous"))  # the control
    assert run.epoch > 0


def test_a_state_written_before_there_were_checksums_is_continued(copy, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    results, state = copy()
    with safe_open(state, "pt") as file:
        tensors, run_of = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()["run"]
    save_file(tensors, state, {"run": run_of})
    run = small_run()
    run.restore(state)
    assert run.epoch == len(run.curve) > 0 and all(
        torch.equal(v, tensors[f"model/{k}"]) for k, v in run.plain.state_dict().items()
    )


def small_run() -> run_state.RunState:
    from accelerate import Accelerator

    return run_state.RunState(build(SMALL, 0), SMALL.training, Accelerator(cpu=True))


def test_a_state_that_can_not_be_read_now_is_kept_and_continued_later(copy, log, whole):
    """An error of reading may pass: a folder on a network, a right that was withdrawn. Nothing is set aside for it."""
    results, state = copy()
    good, before = state.read_bytes(), log.stat().st_size
    assert work(results, log, "unreadable", 1, only=".partial.safetensors") == 1
    said = log.read_text()[before:]
    assert os.strerror(errno.EIO) in said and "the same command tries again" in said and state.name in said
    assert state.read_bytes() == good
    assert not list(state.parent.glob("*.damaged")) and not list(state.parent.glob("*.json"))
    assert work(results, log) == 0 and outcome(results) == whole


def test_a_device_without_room_is_no_fault_of_the_state(copy, monkeypatch):
    results, state = copy()
    good, run = state.read_bytes(), small_run()

    def no_room(*a):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(run.optimizer, "load_state_dict", no_room)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            run.restore(state)
    assert state.read_bytes() == good
    small_run().restore(state)  # the control: it was good


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda tensors, run: tensors.update({"model/head.weight": torch.zeros(3, 3)}), "model/head.weight"),
        (lambda tensors, run: tensors.pop("best/head.bias"), "best/head.bias"),
        (lambda tensors, run: tensors.update({"model/other": torch.zeros(1)}), "model/other"),
        (lambda tensors, run: tensors.update({"optimizer/0/exp_avg": torch.zeros(2)}), "optimizer/0/exp_avg"),
        (lambda tensors, run: tensors.update({"optimizer/99/step": torch.zeros(())}), "99"),
        (lambda tensors, run: tensors.update({"nowhere": torch.zeros(())}), "unpack"),
        (lambda tensors, run: run.update(epoch=9), "epochs do not agree"),
        (lambda tensors, run: run.update(curve=5), "len"),
        (lambda tensors, run: run.pop("seconds"), "seconds"),
    ],
)
def test_a_state_of_another_run_leaves_this_one_untouched(spoil, message, copy, tmp_path):
    """Also one whose checksum fits: it is understood whole before anything is taken from it."""
    import json

    results, state = copy()
    run, meta = small_run(), {"epoch": 1, "chosen": 1, "seconds": 1.0, "curve": [{"accuracy": 0.1}]}
    run.best = {k: v.clone() for k, v in run.evaluated().state_dict().items()}
    tensors = run._tensors()
    for key, value in zip(("step", "exp_avg"), (torch.ones(()), torch.ones_like(run.trained[0])), strict=True):
        tensors[f"optimizer/0/{key}"] = value
    spoil(tensors, meta)
    text = json.dumps(meta)
    run_state.save_file(tensors, state, {"run": text, "sha256": run_state._checksum(text, tensors)})
    before = {k: v.clone() for k, v in run.plain.state_dict().items()}
    with pytest.raises(DamagedState, match=message):
        run.restore(state)
    assert all(torch.equal(v, before[k]) for k, v in run.plain.state_dict().items()) and run.epoch == 0


def test_training_alone_says_where_a_state_can_not_be_read(tmp_path):
    """A folder in its place stands for every error of reading."""
    state = tmp_path / "state.safetensors"
    state.mkdir()
    split = embedded("digits").train[:60]
    with pytest.raises(OSError, match="tries again"):
        train(build(SMALL, 0), split, split, SMALL.training, state_path=state)
    assert state.is_dir()


def test_an_error_of_writing_names_the_file_even_where_torch_does_not(tmp_path):
    def too_large(file):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(OSError, match="File too large.*seed0.safetensors"):
        run_state.write_atomically(tmp_path / "seed0.safetensors", too_large)
    assert list(tmp_path.iterdir()) == []
