"""Training a classifier: one function, resumable after every epoch, the same on one device or many.

Hugging Face accelerate places the model, so ``accelerate launch`` spreads a run over several GPUs or machines. The
images live on the device; every process holds all of them and takes its share of each batch. All randomness of an
epoch comes from (seed, epoch), so a run that was killed continues as if nothing had happened.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from e2vit.data import Split, as_float
from e2vit.training.augmentation import apply_views, draw_views
from e2vit.training.state import DamagedState, RunState, TrainConfig, discard_state, restored, sweep, write_atomically

__all__ = [
    "DamagedState",
    "Diverged",
    "OutOfTime",
    "TrainConfig",
    "Trained",
    "discard_state",
    "make_accelerator",
    "sweep",
    "train",
    "write_atomically",
]


SAVE_EVERY = 120.0  # seconds between states within an epoch


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves besides the model's weights, which are those of ``chosen_epoch``."""

    curve: list[dict[str, float | int]]
    chosen_epoch: int
    seconds: float


class Diverged(RuntimeError):
    """The loss stopped being a number."""


class OutOfTime(RuntimeError):
    """The budget ended before the run did; its state is kept and the next call continues it."""


def train(
    model: nn.Module,
    train_split: Split,
    validation: Split,
    config: TrainConfig,
    *,
    seed: int = 0,
    state_path: Path | None = None,
    deadline: float = math.inf,
    accelerator: Accelerator | None = None,
    watch: Split | None = None,
    progress: bool = False,
) -> Trained:
    """Trains the model in place and leaves it with the chosen weights, in evaluation mode.

    state_path: where the state of the run is kept (safetensors), after every epoch and every two minutes within one, and
                found again by the next call.
    deadline:   ``time.monotonic()``; no epoch is begun that would end later if it took as long as the longest so far.
                Error: OutOfTime.
    watch:      a split whose accuracy is written into the curve as ``watched`` and looked at by nothing: for the
                study of test-set selection alone.
    """
    accelerator = accelerator or make_accelerator()
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    if config.batch_size % accelerator.num_processes:
        raise ValueError(f"batch size {config.batch_size} does not divide among {accelerator.num_processes} processes")
    if len(train_split) == 0 or len(validation) == 0:
        raise ValueError("training needs at least one training and one validation image")
    images, labels = (x.to(accelerator.device) for x in (train_split.images, train_split.labels))
    for name, parameter in model.named_parameters():
        if config.trainable:
            parameter.requires_grad_(name.startswith(config.trainable))
    run = RunState(model, config, accelerator)
    if state_path is not None:
        run = restored(run, state_path)

    batch_size = min(config.batch_size, len(labels) - len(labels) % accelerator.num_processes)
    # The last, incomplete batch of a pass is dropped; another epoch has it.
    steps = config.updates_per_epoch or len(labels) // batch_size
    passes = math.ceil(steps * batch_size / len(labels))
    bar = tqdm(
        range(run.epoch, config.epochs),
        initial=run.epoch,
        total=config.epochs,
        unit="epoch",
        disable=not (progress and accelerator.is_main_process),
    )
    longest = run.seconds / run.epoch if run.epoch else 0.0
    saved = time.monotonic()
    for epoch in bar:
        if time.monotonic() + longest > deadline:
            raise OutOfTime(f"the budget ended after epoch {epoch} of {config.epochs}")
        started = time.monotonic()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
        losses = torch.zeros(steps, device=accelerator.device)
        losses[: len(run.losses)] = torch.tensor(run.losses)
        run.model.train()
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws from the global stream; give it back as it was
            for step in range(steps):
                rows = order[step * batch_size : (step + 1) * batch_size]
                views = draw_views(config.augment, len(rows), generator)
                if step < len(run.losses):  # done before the run was interrupted
                    continue
                torch.manual_seed(((seed * 1_000_003 + epoch) * 100_003 + step) * 1_009 + accelerator.process_index)
                rows = rows[share].to(accelerator.device)
                batch = apply_views(as_float(images[rows]), [v[share].to(accelerator.device) for v in views])
                _set_learning_rate(run.optimizer, config, epoch + step / steps)
                with accelerator.autocast():
                    loss = F.cross_entropy(run.model(batch), labels[rows], label_smoothing=config.label_smoothing)
                accelerator.backward(loss)
                if config.clip is not None:
                    accelerator.clip_grad_norm_(run.trained, config.clip)
                run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)
                if run.average is not None:
                    run.average.update_parameters(accelerator.unwrap_model(run.model))
                losses[step] = loss.detach()
                if state_path is not None and accelerator.is_main_process and time.monotonic() - saved > SAVE_EVERY:
                    saved = time.monotonic()
                    run.save(state_path, losses[: step + 1].tolist(), saved - started)
        run.losses = []
        losses = accelerator.reduce(losses, "mean")
        if not losses.isfinite().all():
            step = int(losses.isfinite().logical_not().nonzero()[0])
            raise Diverged(
                f"the loss stopped being a number in epoch {epoch + 1}, step {step + 1} of {steps}; "
                f"try a learning rate below {config.learning_rate}"
            )
        run.end_epoch(losses.mean().item(), validation, watch, time.monotonic() - started)
        bar.set_postfix(loss=f"{run.curve[-1]['loss']:.3f}", validation=f"{run.curve[-1]['accuracy']:.4f}")
        if state_path is not None and accelerator.is_main_process:
            run.save(state_path)
        longest = max(longest, time.monotonic() - started)  # what its evaluation took included
    run.load_chosen()
    return Trained(run.curve, run.chosen, run.seconds)


def make_accelerator() -> Accelerator:
    """bf16 where the device has it, float32 elsewhere."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: float) -> None:
    rate = config.learning_rate
    if epoch < config.warmup_epochs:
        rate *= (epoch + 0.01) / (config.warmup_epochs + 0.01)
    elif config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        rate *= 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    for group in optimizer.param_groups:
        group["lr"] = rate
