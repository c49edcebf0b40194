"""Image data sets as three disjoint splits of uint8 tensors, with their origin and fingerprint.

``load("rotmnist")`` takes the official archive; else applies the same recipe to MNIST; else to the digits embedded in
scikit-learn. Which of the three was used is part of the result, of every record and of every caption.

Data root: the argument, else the environment variable E2VIT_DATA, else data/raw of the checkout, else the user's cache
folder. Nothing is fetched when E2VIT_OFFLINE is set.
"""

import difflib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from e2vit.actions import rotate
from e2vit.data import real, sources
from e2vit.data.own import from_folder, from_tensors
from e2vit.data.sources import DataError
from e2vit.data.split import Split, Splits, all_training, as_float, cut, subset

__all__ = [
    "DATASETS",
    "DataError",
    "Split",
    "Splits",
    "all_training",
    "as_float",
    "data_root",
    "embedded",
    "enlarge",
    "from_folder",
    "from_tensors",
    "in_shape_of",
    "load",
    "subset",
]

SIZES = (10_000, 2_000, 50_000)  # of rotated MNIST


def load(name: str, root: str | Path | None = None) -> Splits:
    """The named data set; ``DATASETS`` lists the names.

    Error: DataError, one sentence, for an unknown name, a damaged file, or data that can't be had.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DATASETS)}."
        raise DataError(f"no data set is called {name!r}; {hint}")
    splits = _load(name, data_root(root))
    sys.audit("e2vit.load", name, splits.origin)  # the book's tool listens, to say on every page what was loaded
    return splits


def embedded(name: str) -> Splits:
    """What ``load`` falls back to: scikit-learn's digits, always at hand. For quick runs."""
    images, labels = sources.embedded_digits()
    sizes = (1_000, 197, 600)
    if name in ("rotmnist", "rotmnist_upright"):
        return _rotated(images, labels, sizes, name, "rebuilt from embedded digits")
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))
    return cut(images[order], labels[order], sizes, name, "embedded digits")


def in_shape_of(splits: Splits, model: object) -> Splits:
    """The images with the side and channels that a model's configuration names, without the classes it lacks.

    So embedded digits stand in for any images in a quick run; without such a configuration nothing changes.
    """
    side, channels, classes = (getattr(model, name, None) for name in ("image_size", "in_channels", "classes"))
    if side is None or channels is None or classes is None:
        return splits

    def shaped(split: Split) -> Split:
        images, labels = split.images[split.labels < classes], split.labels[split.labels < classes]
        if images.shape[-1] != side:
            images = enlarge(images.float(), side).round().clamp(0, 255).byte()
        return Split(images.expand(-1, channels, -1, -1).contiguous(), labels)

    return replace(splits, train=shaped(splits.train), validation=shaped(splits.validation), test=shaped(splits.test))


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds the data sets: argument, E2VIT_DATA, data/raw of the checkout, or the user's cache."""
    checkout = Path(__file__).resolve().parents[3]
    if root or os.environ.get("E2VIT_DATA"):
        return Path(root or os.environ["E2VIT_DATA"]).expanduser().absolute()
    if (checkout / "pyproject.toml").exists():
        return checkout / "data" / "raw"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "e2vit"


def enlarge(images: Tensor, side: int) -> Tensor:
    """Images (n, channel, height, width) of any float type, resized to side×side by bilinear interpolation."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=False)


@lru_cache(maxsize=4)
def _load(name: str, root: Path) -> Splits:
    splits = DATASETS[name](root)
    for part, split in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if len(split) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < splits.classes:
            raise DataError(f"{name}: the {part} split has labels outside 0 to {splits.classes - 1}")
    return splits


def _rotmnist(root: Path) -> Splits:
    if (official := sources.official_rotmnist(root)) is not None:
        return cut(*official, SIZES, "rotmnist", "official archive")
    return _rebuilt(root, "rotmnist")


def _rebuilt(root: Path, name: str) -> Splits:
    """rotmnist, or rotmnist_upright with upright training and validation images, from MNIST."""
    try:
        images, labels = (torch.cat(pair) for pair in zip(*sources.mnist(root), strict=True))
    except sources.Unavailable as reason:
        warnings.warn(f"{name} is rebuilt from scikit-learn's embedded digits: {reason}", stacklevel=4)
        return embedded(name)
    return _rotated(images, labels, SIZES, name, "rebuilt from MNIST")


def _rotated(images: Tensor, labels: Tensor, sizes: tuple[int, int, int], name: str, origin: str) -> Splits:
    """The recipe of Larochelle et al. (2007): digits in random order, each rotated by one uniform angle."""
    random = np.random.RandomState(2007)
    order = torch.from_numpy(random.permutation(len(images))[: sum(sizes)])
    degrees = torch.from_numpy(random.uniform(0, 360, len(order)))
    if name == "rotmnist_upright":
        degrees[: sizes[0] + sizes[1]] = 0
    rotated = [
        rotate(images[rows].double(), angles, mode="bicubic").round().clamp(0, 255).byte()
        for rows, angles in zip(order.split(4096), degrees.split(4096), strict=True)
    ]
    return cut(torch.cat(rotated), labels[order], sizes, name, origin)


def _mnist(root: Path) -> Splits:
    try:
        (images, labels), test = sources.mnist(root)
    except sources.Unavailable as reason:
        warnings.warn(f"mnist is replaced by scikit-learn's embedded digits: {reason}", stacklevel=4)
        return embedded("mnist")
    return cut(torch.cat([images, test[0]]), torch.cat([labels, test[1]]), (55_000, 5_000, 10_000), "mnist", "MNIST")


def _cifar10(root: Path) -> Splits:
    (images, labels), test = sources.cifar10(root)
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))
    images, labels = torch.cat([images[order], test[0]]), torch.cat([labels[order], test[1]])
    return cut(images, labels, (45_000, 5_000, 10_000), "cifar10", "CIFAR-10")


def _pcam(root: Path) -> Splits:
    train, validation, test = (Split(*part) for part in sources.pcam(root))
    return Splits(train, validation, test, "pcam", "PatchCamelyon", classes=2)


def _rsscn7(root: Path) -> Splits:
    images, labels = sources.rsscn7(root)
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))
    return cut(images[order], labels[order], (1_680, 280, 840), "rsscn7", "RSSCN7, reduced to 64×64", classes=7)


DATASETS: dict[str, Callable[[Path], Splits]] = {
    "rotmnist": _rotmnist,
    "rotmnist_upright": lambda root: _rebuilt(root, "rotmnist_upright"),
    "mnist": _mnist,
    "digits": lambda root: embedded("digits"),
    "cifar10": _cifar10,
    "pcam": _pcam,
    "rsscn7": _rsscn7,
    **real.LOADERS,
}
