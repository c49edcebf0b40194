"""Image data sets as three disjoint splits of uint8 tensors, with their origin and fingerprint.

``load("rotmnist")`` climbs down a ladder: the official archive; else the same recipe applied to MNIST; else the digits
embedded in scikit-learn. Which rung was used is part of the result, of every record and of every caption.

Data root: the argument, else the environment variable E2VIT_DATA, else data/raw of the checkout, else the user's cache
folder. Nothing is fetched when E2VIT_OFFLINE is set.
"""

import difflib
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from e2vit.actions import rotate
from e2vit.data import real, sources
from e2vit.data.sources import DataError


@dataclass(frozen=True)
class Split:
    """images: (n, channel, height, width) uint8; labels: (n,) int64."""

    images: UInt8[Tensor, "n channel height width"]
    labels: Int64[Tensor, " n"]

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

    @property
    def fingerprint(self) -> dict[str, str]:
        """Name, origin and sha256 of all tensors: what a record stores to say what it was trained on."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.numpy().tobytes())
            digest.update(split.labels.numpy().tobytes())
        return {"name": self.name, "origin": self.origin, "sha256": digest.hexdigest()}


def load(name: str, root: str | Path | None = None) -> Splits:
    """The named data set; ``DATASETS`` lists the names.

    Error: DataError, one sentence, for an unknown name, an archive that is damaged, or data that can't be had.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DATASETS)}."
        raise DataError(f"no data set is called {name!r}; {hint}")
    splits = _load(name, data_root(root))
    sys.audit("e2vit.load", name, splits.origin)  # the book's tool listens, to say on every page what was loaded
    return splits


def embedded(name: str) -> Splits:
    """What ``load`` gives on the lowest rung of its ladder: scikit-learn's digits, always at hand. For quick runs."""
    images, labels = sources.embedded_digits()
    sizes = (1_000, 197, 600)
    if name in ("rotmnist", "rotmnist_upright"):
        return _turned(images, labels, sizes, name, "rebuilt from embedded digits", name == "rotmnist_upright")
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))
    return _cut(images[order], labels[order], sizes, name, "embedded digits")


def in_shape_of(splits: Splits, model: object) -> Splits:
    """The images with the side and channels that a model's configuration names, and no class that it does not know.

    So embedded digits stand in for any images in a quick run; without such a configuration nothing changes.
    """
    side, channels, classes = (getattr(model, name, None) for name in ("image_size", "channels", "classes"))
    channels = getattr(model, "in_channels", channels)  # where channels are those of the features
    if None in (side, channels, classes):
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
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:  # a user without a home, as in some containers
        cache = Path(tempfile.gettempdir())
    return cache / "e2vit"


def subset(split: Split, fraction: float, seed: int) -> Split:
    """A stratified part of a split: the same share of every class, drawn with the seed, in the official order."""
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
    joined = Split(
        *(
            torch.cat(pair)
            for pair in (
                (splits.train.images, splits.validation.images),
                (splits.train.labels, splits.validation.labels),
            )
        )
    )
    return replace(splits, train=joined)


@lru_cache(maxsize=4)
def _load(name: str, root: Path) -> Splits:
    splits = DATASETS[name](root)
    for part, split in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if len(split.images) != len(split.labels) or split.images.dtype != torch.uint8:
            raise DataError(f"{name}: the {part} split does not hold one uint8 image for each label")
        if len(split) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < splits.classes:
            raise DataError(f"{name}: the {part} split has labels outside 0 to {splits.classes - 1}")
    return splits


def _rotmnist(root: Path, upright_training: bool = False) -> Splits:
    name = "rotmnist_upright" if upright_training else "rotmnist"
    if not upright_training and (official := sources.official_rotmnist(root)) is not None:
        images, labels = official
        return _cut(images, labels, (10_000, 2_000, 50_000), name, "official archive")
    try:
        images, labels = (torch.cat(pair) for pair in zip(*sources.mnist(root), strict=True))
    except sources.Unavailable as reason:
        warnings.warn(f"{name} is rebuilt from scikit-learn's embedded digits: {reason}", stacklevel=4)
        return embedded(name)
    return _turned(images, labels, (10_000, 2_000, 50_000), name, "rebuilt from MNIST", upright_training)


def _turned(images, labels, sizes, name, origin, upright_training) -> Splits:
    """The recipe of Larochelle et al. (2007): digits in random order, each turned by one uniform angle."""
    random = np.random.RandomState(2007)
    order = torch.from_numpy(random.permutation(len(images))[: sum(sizes)])
    degrees = torch.from_numpy(random.uniform(0, 360, len(order)))
    if upright_training:
        degrees[: sizes[0] + sizes[1]] = 0
    turned = [
        rotate(images[rows].double(), angles, mode="bicubic").round().clamp(0, 255).byte()
        for rows, angles in zip(order.split(4096), degrees.split(4096), strict=True)
    ]
    return _cut(torch.cat(turned), labels[order], sizes, name, origin)


def _mnist(root: Path) -> Splits:
    try:
        (images, labels), test = sources.mnist(root)
    except sources.Unavailable as reason:
        warnings.warn(f"mnist is replaced by scikit-learn's embedded digits: {reason}", stacklevel=4)
        return embedded("mnist")
    return Splits(
        Split(images[:55_000], labels[:55_000]), Split(images[55_000:], labels[55_000:]), Split(*test), "mnist", "MNIST"
    )


def _cifar10(root: Path) -> Splits:
    (images, labels), test, origin = sources.cifar10(root)
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))  # the JPEG copy is sorted by class
    train, validation = order[:45_000], order[45_000:]
    return Splits(
        Split(images[train], labels[train]),
        Split(images[validation], labels[validation]),
        Split(*test),
        "cifar10",
        origin,
    )


def _pcam(root: Path) -> Splits:
    return Splits(*(Split(*part) for part in sources.pcam(root)), "pcam", "PatchCamelyon", classes=2)


def _rsscn7(root: Path) -> Splits:
    images, labels = sources.rsscn7(root)
    order = torch.from_numpy(np.random.RandomState(2007).permutation(len(images)))
    return _cut(images[order], labels[order], (1_680, 280, 840), "rsscn7", "RSSCN7, reduced to 64×64", classes=7)


def _fold(name: str, number: int, root: Path) -> Splits:
    _, origin, classes = real.SETS[name]
    return Splits(*(Split(*part) for part in real.fold(name, number, root)), f"{name}/fold{number}", origin, classes)


def _cut(images: Tensor, labels: Tensor, sizes: tuple[int, int, int], name: str, origin: str, classes=10) -> Splits:
    if len(images) < sum(sizes):
        raise DataError(f"{name} needs {sum(sizes)} images and has {len(images)}")
    first, second = sizes[0], sizes[0] + sizes[1]
    cuts = (slice(0, first), slice(first, second), slice(second, sum(sizes)))
    return Splits(*(Split(images[cut].contiguous(), labels[cut].contiguous()) for cut in cuts), name, origin, classes)


DATASETS: dict[str, Callable[[Path], Splits]] = {
    "rotmnist": _rotmnist,
    "rotmnist_upright": lambda root: _rotmnist(root, upright_training=True),
    "mnist": _mnist,
    "digits": lambda root: embedded("digits"),
    "cifar10": _cifar10,
    "pcam": _pcam,
    "rsscn7": _rsscn7,
    **{f"{name}/fold{number}": partial(_fold, name, number) for name in real.SETS for number in range(real.FOLDS)},
}


def as_float(images: UInt8[Tensor, "*shape"]) -> Tensor:
    """Bytes 0 to 255 as float32 in [0, 1]."""
    return images.float() / 255


def enlarge(images: Tensor, side: int) -> Tensor:
    """Images (n, channel, height, width) of any float type, resized to side×side by bilinear interpolation."""
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=False)
