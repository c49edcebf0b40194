"""Where raw images come from: torchvision fetches, verifies and reads them; two files are read here.

Nothing is fetched when E2VIT_OFFLINE is set.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, PCAM
from torchvision.datasets.utils import check_md5, download_url

Labeled = tuple[Tensor, Tensor]  # images (n, channel, height, width) uint8, labels (n,) int64

ROTMNIST_URL = "http://www.iro.umontreal.ca/~lisa/icml2007data/mnist_rotation_new.zip"
ROTMNIST_MD5 = "0f9a947ff3d30e95cd685462cbf3b847"
ROTMNIST_MEMBERS = tuple(f"mnist_all_rotation_normalized_float_{part}.amat" for part in ("train_valid", "test"))
ROTMNIST_ROWS = (12_000, 50_000)


class DataError(Exception):
    """Data that can't be used, with the reason in one sentence."""


class Unavailable(DataError):
    """Data that is neither on disk nor can be fetched; the caller may fall back to other data."""


def official_rotmnist(root: Path) -> Labeled | None:
    """All 62,000 images of the official archive in their order, or None when it can't be had.

    The text files hold every image column by column, so each is transposed here (see the weaknesses chapter).
    """
    archive = root / "mnist_rotation_new.zip"
    if not archive.exists():
        try:
            fetched(download_url, root, ROTMNIST_URL, str(root), archive.name, ROTMNIST_MD5)
        except Unavailable:
            return None
    _verify(archive, ROTMNIST_MD5)
    with zipfile.ZipFile(archive) as files:
        table = np.concatenate([np.loadtxt(files.open(member), dtype=np.float32) for member in ROTMNIST_MEMBERS])
    if table.shape != (sum(ROTMNIST_ROWS), 785):
        raise DataError(f"{archive} holds a table of shape {table.shape}, expected ({sum(ROTMNIST_ROWS)}, 785)")
    images = torch.from_numpy(table[:, :-1] * 255).round().byte().unflatten(1, (1, 28, 28))
    return images.transpose(-2, -1).contiguous(), torch.from_numpy(table[:, -1]).long()


def mnist(root: Path) -> tuple[Labeled, Labeled]:
    """MNIST's 60,000 training and 10,000 test images."""
    files = [root / "MNIST" / "raw" / name for name, _ in MNIST.resources]
    with tempfile.TemporaryDirectory() as folder:
        if all(file.exists() for file in files):  # packed files are unpacked elsewhere: their folder may be read-only
            for file, (_, md5) in zip(files, MNIST.resources, strict=True):
                _verify(file, md5)
            root = Path(shutil.copytree(files[0].parent, Path(folder) / "MNIST" / "raw")).parents[1]
            parts = [MNIST(str(root), train=train, download=True) for train in (True, False)]
        else:
            parts = [fetched(MNIST, root, str(root), train=train, download=online()) for train in (True, False)]
    train, test = ((part.data[:, None], part.targets.long()) for part in parts)
    return train, test


def embedded_digits() -> Labeled:
    """scikit-learn's 1,797 digits of 8×8 pixels, enlarged to 20×20 in a frame of 28×28, as MNIST's are."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = torch.from_numpy(digits.images)[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(20, 20), mode="bilinear", align_corners=False)
    return torch.nn.functional.pad(images, (4, 4, 4, 4)).round().byte(), torch.from_numpy(digits.target).long()


def cifar10(root: Path) -> tuple[Labeled, Labeled]:
    """CIFAR-10's 50,000 training and 10,000 test images."""
    parts = [fetched(CIFAR10, root, str(root), train=train, download=online()) for train in (True, False)]
    train, test = (labeled(root, part.data, np.array(part.targets)) for part in parts)
    return train, test


def pcam(root: Path) -> tuple[Labeled, ...]:
    """PatchCamelyon's training, validation and test images, 96×96 in color; needs the package h5py."""
    parts = []
    for part in ("train", "val", "test"):
        found = fetched(PCAM, root, str(root), split=part, download=online())
        arrays = []
        for key, dataset in (("images", "x"), ("targets", "y")):
            with found.h5py.File(root / "pcam" / found._FILES[part][key][0]) as file:
                arrays.append(file[dataset][:])
        parts.append(labeled(root, arrays[0], arrays[1].reshape(-1)))
    return tuple(parts)


def rsscn7(root: Path) -> Labeled:
    """RSSCN7's 2,800 aerial scenes (Zou et al., 2015), each reduced to 64×64 by box averaging.

    Read from rsscn7/rsscn7_64.npz in the data root, else from the folder RSSCN7 of the original photographs.
    """
    path, original = root / "rsscn7" / "rsscn7_64.npz", root / "RSSCN7"
    if path.exists():
        try:
            with np.load(path) as arrays:
                return labeled(path, arrays["images"], arrays["labels"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as reason:
            raise DataError(f"{path} is damaged ({first_line(reason)})") from None
    if original.exists():
        from e2vit.data.own import read_folder

        return read_folder(original, 64)[:2]
    raise Unavailable(f"neither {path} nor the original photographs in {original} are there")


def labeled(path: Path, images: np.ndarray, labels: np.ndarray) -> Labeled:
    """Images (n, height, width, 3) uint8 and their labels (n,) as tensors with the channels first."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} holds images of type {images.dtype} and shape {images.shape} and labels of shape "
            f"{labels.shape}, expected uint8 (n, height, width, 3) and (n,)"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def online() -> bool:
    return "E2VIT_OFFLINE" not in os.environ


def fetched(source: Callable[..., Any], root: Path, *arguments: Any, **options: Any) -> Any:
    """Calls one of torchvision's sources. Error: Unavailable when its data is neither there nor can be fetched."""
    name = f"The archive {arguments[0]}" if source is download_url else source.__name__
    if not online() and source is download_url:
        raise Unavailable(f"{name} is not in {root}, and E2VIT_OFFLINE forbids fetching it")
    try:
        return source(*arguments, **options)
    except (RuntimeError, OSError, ImportError) as reason:
        hint = "" if online() else "; E2VIT_OFFLINE forbids fetching it"
        raise Unavailable(f"{name} can't be read from {root} or fetched: {first_line(reason)}{hint}") from None


def _verify(path: Path, md5: str) -> None:
    if not check_md5(str(path), md5):
        raise DataError(f"{path} is damaged or cut short (its MD5 is not {md5}); delete it to fetch it anew")


def first_line(reason: BaseException) -> str:
    return str(reason).splitlines()[0] if str(reason) else type(reason).__name__
