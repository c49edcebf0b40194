"""Training: resumable to the bit, blind to the test split, the same on one process and on two."""

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from e2vit.data import embedded
from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.models import ViTConfig
from e2vit.training import DamagedState, Diverged, OutOfTime, TrainConfig, train

CONFIG = TrainConfig(epochs=4, batch_size=50, average=0.9, warmup_epochs=1)
SPLITS = embedded("digits")
SMALL = SPLITS.train[:300]


def fresh():
    return build(replace(EXPERIMENTS["digits/vit"], model=ViTConfig(width=32, depth=2)), seed=0)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def finished(**options):
    model = fresh()
    return model, train(model, SMALL, SPLITS.validation, options.pop("config", CONFIG), **options)


@pytest.fixture(scope="module")
def undisturbed():
    return finished()


def test_the_loss_falls_and_the_curve_is_complete(undisturbed):
    model, result = undisturbed
    assert [entry["epoch"] for entry in result.curve] == [1, 2, 3, 4]
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
    assert result.chosen_epoch == 1 + max(range(4), key=lambda e: result.curve[e]["accuracy"])
    assert not model.training


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_alone(undisturbed):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    model, _ = finished()
    assert torch.equal(weights(model), weights(undisturbed[0])) and torch.equal(torch.rand(1), before)
    assert not torch.equal(weights(finished(seed=1)[0]), weights(model))


@pytest.mark.parametrize("epochs_before", [1, 3])
def test_a_run_that_stopped_continues_to_the_same_bits(undisturbed, tmp_path, epochs_before):
    state, losses = tmp_path / "state.pt", []

    def stopping(logits, labels):
        losses.append(torch.nn.functional.cross_entropy(logits, labels))
        if len(losses) > 6 * epochs_before + 2:  # six updates are an epoch
            raise KeyboardInterrupt
        return losses[-1]

    with pytest.raises(KeyboardInterrupt):
        finished(state_path=state, loss=stopping)
    assert torch.load(state, weights_only=True)["epoch"] == epochs_before
    model, result = finished(state_path=state)
    assert torch.equal(weights(model), weights(undisturbed[0]))
    assert result.curve == undisturbed[1].curve


@pytest.mark.parametrize("damage", [lambda whole: whole[:500], lambda whole: b"", lambda whole: b"no state" * 99])
def test_a_damaged_state_is_refused_in_one_sentence(tmp_path, damage):
    state = tmp_path / "state.pt"
    finished(state_path=state, config=replace(CONFIG, epochs=1))
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(DamagedState, match="state.pt is not a state of this run .*; delete it to begin anew"):
        finished(state_path=state)


@pytest.mark.parametrize("images", [20, 300])
def test_an_epoch_of_so_many_updates_is_as_long_for_any_share_of_the_data(images, monkeypatch):
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (steps.append(1), step(self, *a, **k))[1])
    config = replace(CONFIG, epochs=2, updates_per_epoch=7, batch_size=16)
    train(fresh(), SMALL[:images], SPLITS.validation[:20], config)
    assert len(steps) == 14


def test_a_deadline_stops_cleanly_between_epochs(undisturbed, tmp_path):
    state = tmp_path / "state.pt"
    with pytest.raises(OutOfTime, match="time is up after epoch 0 of 4"):
        finished(state_path=state, deadline=time.monotonic() - 1)
    model, _ = finished(state_path=state)
    assert torch.equal(weights(model), weights(undisturbed[0]))


def test_a_loss_that_is_no_number_names_its_step():
    model = fresh()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="epoch 1, step 1 of 6"):
        train(model, SMALL, SPLITS.validation, CONFIG)


def test_frozen_parameters_stay(undisturbed):
    model, start = fresh(), fresh()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    train(model, SMALL, SPLITS.validation, replace(CONFIG, epochs=1))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schedule": "linear"}, "schedule"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"augment": "flip"}, "augment"),
        ({"keep": "first"}, "keep"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


ALONE = (sys.executable,)
PAIR = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from e2vit.__main__ import main
from e2vit.experiments import EXPERIMENTS
entry = EXPERIMENTS["digits/vit"]
training = replace(entry.training, epochs=3, batch_size=50)
EXPERIMENTS[entry.name] = replace(entry, fraction=0.3, model=entry.model.tiny(), training=training)
sys.exit(main(["run", "digits/vit", "--quiet", *sys.argv[1:]]))
"""


def call(results: Path, launcher: tuple[str, ...], *options: str) -> subprocess.CompletedProcess:
    """The first three epochs of a first run, on a third of the images, as the command line runs it."""
    program = results / "program.py"
    program.write_text(PROGRAM)
    command = [*launcher, str(program), "--results", str(results), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def outcome(results: Path) -> tuple[bytes, dict]:
    folder = results / "digits" / "vit"
    return (folder / "seed0.safetensors").read_bytes(), json.loads((folder / "seed0.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    call(folder, ALONE)
    return outcome(folder)


def test_two_processes_reach_what_one_reaches(tmp_path, whole):
    assert call(tmp_path, PAIR).stdout.count("digits/vit, seed 0: test") == 1
    two, one = outcome(tmp_path)[1], whole[1]
    assert two["processes"] == 2 and one["processes"] == 1
    assert abs(two["test"]["accuracy"] - one["test"]["accuracy"]) < 0.05
    assert abs(two["curve"][-1]["loss"] - one["curve"][-1]["loss"]) < 0.05


def test_two_processes_agree_on_when_the_time_is_up(tmp_path):
    """Each reads its own clock; one that stopped alone would let the other wait for ever."""
    stopped = call(tmp_path, PAIR, "--budget-minutes", "0")
    assert "time is up after epoch 0 of 3; the same command continues" in stopped.stderr
    assert not (tmp_path / "digits/vit/seed0.json").exists()


def test_no_warning_is_raised_by_an_ordinary_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished(config=replace(CONFIG, epochs=1))
