"""Images with their labels, and three disjoint splits of one data set."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from e2vit.data.sources import DataError


@dataclass(frozen=True)
class Split:
    """images: (n, channel, height, width), uint8 or float in [0, 1].

    labels: (n,) int64 from 0 on; or (n, class) float, each 0 or 1, where several classes hold at once.
    Error: ValueError for other types and shapes.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        images, labels = self.images, self.labels
        if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(
                "images are a tensor (n, channel, height, width) of uint8 or of floats in [0, 1], "
                f"not of {images.dtype} with shape {tuple(images.shape)}"
            )
        if not (labels.dtype == torch.int64 and labels.ndim == 1 or labels.is_floating_point() and labels.ndim == 2):
            raise ValueError(
                "labels are int64 with shape (n,), or floats with shape (n, class) for several labels an image, "
                f"not {labels.dtype} with shape {tuple(labels.shape)}"
            )
        if len(images) != len(labels):
            raise ValueError(f"every image has one label, but there are {len(images)} images and {len(labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images of one data set, in the official order.

    origin: where the images come from, in words fit for a caption.
    """

    train: Split
    validation: Split
    test: Split
    name: str
    origin: str
    classes: int = 10
    class_names: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> dict[str, str]:
        """Name, origin and sha256 of all tensors: what a record stores to say what it was trained on."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return {"name": self.name, "origin": self.origin, "sha256": digest.hexdigest()}


def as_float(images: Tensor) -> Tensor:
    """Bytes 0 to 255 as float32 in [0, 1]; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def subset(split: Split, fraction: float, seed: int) -> Split:
    """A stratified part of a split: the same fraction of every class, drawn with the seed, in the official order."""
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction lies above 0 and at most at 1, got {fraction}")
    if fraction == 1:
        return split
    random = np.random.RandomState(seed)  # its stream is frozen by NumPy's compatibility policy
    labels = split.labels.numpy()
    kept = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    kept = [indices[: max(1, round(fraction * len(indices)))] for indices in kept]
    return split[torch.from_numpy(np.sort(np.concatenate(kept)))]


def all_training(splits: Splits) -> Splits:
    """Training and validation images together as the training split, for a final run without any choice to make."""
    train, validation = splits.train, splits.validation
    joined = Split(torch.cat([train.images, validation.images]), torch.cat([train.labels, validation.labels]))
    return replace(splits, train=joined)


def cut(images: Tensor, labels: Tensor, sizes: tuple[int, int, int], name: str, origin: str, classes=10) -> Splits:
    """The first images as training split, the next as validation split, the next as test split."""
    if len(images) < sum(sizes):
        raise DataError(f"{name} needs {sum(sizes)} images and has {len(images)}")
    starts = (0, sizes[0], sizes[0] + sizes[1])
    parts = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    train, validation, test = (Split(images[p].contiguous(), labels[p].contiguous()) for p in parts)
    return Splits(train, validation, test, name, origin, classes)
