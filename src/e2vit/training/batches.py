"""Batches of one epoch, from splits in memory or from a DataLoader, and the evaluation of a model on either."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from e2vit import metrics
from e2vit.data import Split, as_float
from e2vit.data.own import check_range
from e2vit.training.config import TrainConfig, apply_views, draw_views

Data = Split | Iterable[tuple[Tensor, Tensor]]  # splits in memory, or a DataLoader of (images, labels)


class Batches:
    """Batches of training images; every process sees all of them and takes its share of each.

    augmentation: images (batch, channel, height, width) float → images, in place of ``config.augment``.
    """

    def __init__(self, data: Data, config: TrainConfig, accelerator: Accelerator, augmentation: Callable | None):
        self.config, self.accelerator, self.augmentation = config, accelerator, augmentation
        self.data: Any = data
        processes = accelerator.num_processes
        if isinstance(data, Split):
            if config.batch_size % processes:
                raise ValueError(f"batch size {config.batch_size} does not divide among {processes} processes")
            self.data = Split(data.images.to(accelerator.device), data.labels.to(accelerator.device))
            # The last, incomplete batch of a pass is dropped; another epoch has it.
            self.batch_size = min(config.batch_size, len(data) - len(data) % processes)
            self.steps = config.updates_per_epoch or len(data) // self.batch_size
        else:
            try:
                self.steps = config.updates_per_epoch or len(self.data)
            except TypeError:
                raise ValueError("a DataLoader without a length needs updates_per_epoch in its configuration") from None

    def epoch(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Float images and labels of each step, on the device of this process; drawn from the seed."""
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        generator, device = torch.Generator().manual_seed(seed), self.accelerator.device
        batches = self._of_split(generator) if isinstance(self.data, Split) else self._of_loader()
        for images, labels, views in batches:
            images = as_float(images[share].to(device))
            if views:
                images = apply_views(images, [v[share].to(device) for v in views])
            yield images if self.augmentation is None else self.augmentation(images), labels[share].to(device)

    def _of_split(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        count, size = len(self.data), self.batch_size
        passes = math.ceil(self.steps * size / count)
        order = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
        augment = "none" if self.augmentation else self.config.augment
        for rows in order[: self.steps * size].split(size):
            views = draw_views(augment, size, generator)
            rows = rows.to(self.accelerator.device)
            yield self.data.images[rows], self.data.labels[rows], views

    def _of_loader(self) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        step = 0
        while step < self.steps:
            before = step
            for images, labels in self.data:
                yield images, labels, []
                step += 1
                if step == self.steps:
                    return
            if step == before:
                raise ValueError("training needs at least one image, and the DataLoader has none")


@torch.no_grad()
def logits_and_labels(model: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """Logits of a model in evaluation mode and the labels of the same images, on the CPU."""
    if isinstance(data, Split):
        return metrics.predict(model, data.images), data.labels.cpu()
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    pairs = [(model(as_float(images.to(device))).float().cpu(), labels.cpu()) for images, labels in data]
    model.train(was_training)
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return logits, labels


@torch.no_grad()
def check(model: nn.Module, data: Data, what: str) -> None:
    """Refuses data that a model can't be trained on, after one pass of two images. Error: ValueError."""
    if not isinstance(data, Split) and not hasattr(data, "__iter__"):
        raise TypeError(f"{what} images come as Splits, a Split or a DataLoader, not as {type(data).__name__}")
    if isinstance(data, Split):
        images, labels = data.images, data.labels
        check_range(images)
    else:
        with torch.random.fork_rng(devices=[]):
            images, labels = next(iter(data), (torch.zeros(0), torch.zeros(0)))
        if images.ndim > 1 and not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(f"{what} images are uint8 or floats, not {images.dtype}")
        if images.is_floating_point() and images.numel() and images.abs().max() > 20:  # normalized ones lie below
            raise ValueError(f"{what} images are floats up to {images.max():.3g}: divide them by 255, or give uint8")
    if len(labels) == 0:
        raise ValueError(f"training needs at least one {what} image")
    if len(images) != len(labels):
        raise ValueError(f"every {what} image has one label, but there are {len(images)} and {len(labels)}")
    was_training = model.training
    logits = model.eval()(as_float(images[:2].to(next(model.parameters()).device)))
    model.train(was_training)
    if logits.ndim != 2 or len(logits) != len(images[:2]):
        raise ValueError(f"a classifier returns logits (batch, class), this one {tuple(logits.shape)}")
    classes = logits.shape[1]
    if labels.ndim == 2 and labels.shape[1] == classes and labels.is_floating_point():
        return
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(
            f"{what} labels are int64 with shape (n,), or floats with shape (n, {classes}), "
            f"not {labels.dtype} with shape {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"the model has {classes} classes, so {what} labels run from 0 to {classes - 1}, not {low} to {high}"
        )
