"""Where raw images come from: finding, fetching, verifying and reading the files behind the data sets.

torchvision's helpers do the fetching (progress bar, MD5). A file is fetched into a temporary folder beside its place
and renamed into it, so that no half file is ever seen.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, MNIST, PCAM
from torchvision.datasets.utils import check_md5, download_url

from e2vit.data.formats import (
    ROTMNIST_ROWS,
    DataError,
    Labeled,
    first_line,
    labeled,
    read_gzip_idx,
    read_hdf5,
    read_jpegs,
    read_npz,
    read_rotmnist_archive,
)

ROTMNIST_URL = "http://www.iro.umontreal.ca/~lisa/icml2007data/mnist_rotation_new.zip"
ROTMNIST_MD5 = "0f9a947ff3d30e95cd685462cbf3b847"


class Unavailable(DataError):
    """Data that is not here and can't be fetched now; another rung of the ladder may serve."""


def official_rotmnist(root: Path) -> Labeled | None:
    """All 62,000 images of the official archive in their order, or None when it can't be had.

    The text files hold every image column by column, so each is transposed here (see the weaknesses chapter).
    Converted once to a compact file beside the archive, when the folder can be written.
    """
    compact = root / "rotmnist" / "rotmnist.npz"
    archive = root / "mnist_rotation_new.zip"
    if not compact.exists():
        if not archive.exists():
            try:
                _fetch(archive, lambda folder: download_url(ROTMNIST_URL, str(folder), archive.name, ROTMNIST_MD5))
            except Unavailable:
                return None
        _verify(archive, ROTMNIST_MD5)
        images, labels = read_rotmnist_archive(archive)
        _place(compact, lambda path: np.savez_compressed(path, images=images, labels=labels))
    else:
        images, labels = read_npz(compact, sum(ROTMNIST_ROWS) * 28 * 28, "images", "labels")
    count = sum(ROTMNIST_ROWS)
    if images.dtype != np.uint8 or images.shape != (count, 28, 28) or labels.shape != (count,):
        raise DataError(
            f"{compact} holds {images.dtype} of shape {images.shape}, expected bytes of 62,000 images of "
            "28×28; delete it to redo"
        )
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))


def mnist(root: Path) -> tuple[Labeled, Labeled]:
    """MNIST's 60,000 training and 10,000 test images, MD5 verified."""
    folder = root / "MNIST" / "raw"
    if not all((folder / name).exists() for name, _ in MNIST.resources):
        _fetch(folder, lambda path: _download_mnist(path / "raw"))
    arrays = []
    for name, md5 in MNIST.resources:
        _verify(folder / name, md5)
        arrays.append(read_gzip_idx(folder / name, most=64 << 20))
    train_images, train_labels, test_images, test_labels = arrays
    return (train_images[:, None], train_labels.long()), (test_images[:, None], test_labels.long())


def embedded_digits() -> Labeled:
    """scikit-learn's 1,797 digits of 8×8 pixels, enlarged to 20×20 and set in a frame of 28×28, as MNIST's are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images)[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(20, 20), mode="bilinear", align_corners=False)
    return torch.nn.functional.pad(images, (4, 4, 4, 4)).round().byte(), torch.from_numpy(digits.target).long()


def cifar10(root: Path) -> tuple[Labeled, Labeled, str]:
    """CIFAR-10's 50,000 training and 10,000 test images and their origin; a JPEG copy serves where it alone is here."""
    copy = root / "cifar10_jpeg"
    if not (root / CIFAR10.base_folder).exists() and copy.exists():
        train, test = (read_jpegs(copy / f"cifar10_{part}_jpeg.npz", 50_000, 32) for part in ("train", "test"))
        return train, test, "CIFAR-10 (JPEG copy)"
    if not (root / CIFAR10.base_folder).exists():
        _fetch(root / CIFAR10.base_folder, lambda folder: _download_cifar10(folder))
    try:
        parts = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as reason:
        raise DataError(f"{root / CIFAR10.base_folder} is damaged: {reason}; delete it to fetch it anew") from None
    train, test = ((torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets)) for p in parts)
    return train, test, "CIFAR-10"


def pcam(root: Path) -> tuple[Labeled, Labeled, Labeled]:
    """PatchCamelyon's training, validation and test images, 96×96 in color; torchvision fetches them."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise DataError("PatchCamelyon's files need the package h5py: pip install h5py") from None
    parts = []
    for part, count in (("train", 262_144), ("val", 32_768), ("test", 32_768)):
        try:
            found = PCAM(str(root), split=part, download="E2VIT_OFFLINE" not in os.environ)
        except (RuntimeError, OSError, ImportError) as reason:
            raise Unavailable(f"PatchCamelyon is not in {root} and can't be fetched ({first_line(reason)})") from None
        arrays = [
            read_hdf5(root / "pcam" / found._FILES[part][key][0], dataset, (count, *shape))
            for key, dataset, shape in (("images", "x", (96, 96, 3)), ("targets", "y", (1, 1, 1)))
        ]
        parts.append((arrays[0].permute(0, 3, 1, 2).contiguous(), arrays[1].flatten().long()))
    return tuple(parts)


def rsscn7(root: Path) -> Labeled:
    """RSSCN7's 2,800 aerial scenes (Zou et al., 2015) reduced to 64×64, from rsscn7/rsscn7_64.npz in the data root."""
    path = root / "rsscn7" / "rsscn7_64.npz"
    if not path.exists():
        raise Unavailable(f"{path} is missing; it holds images (2800, 64, 64, 3) and labels (2800,)")
    return labeled(path, *read_npz(path, 2_800 * 64 * 64 * 3, "images", "labels"))


def _fetch(target: Path, download: Callable[[Path], None]) -> None:
    """Downloads into a temporary folder beside the target, then renames what came to the target's name."""
    if "E2VIT_OFFLINE" in os.environ:
        raise Unavailable(f"{target.name} is not in {target.parent}, and E2VIT_OFFLINE forbids fetching it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            download(Path(folder))
            (fetched,) = Path(folder).iterdir()
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(fetched, target)
    except OSError as reason:  # URLError, a read-only or full folder
        raise Unavailable(f"{target.name} can't be fetched into {target.parent} ({first_line(reason)})") from None
    except RuntimeError as reason:  # torchvision's word for a wrong checksum, or for no mirror that answers
        raise Unavailable(f"{target.name} was not fetched whole ({first_line(reason)})") from None


def _download_mnist(folder: Path) -> None:
    for name, md5 in MNIST.resources:
        for mirror in MNIST.mirrors:
            try:
                download_url(mirror + name, str(folder), name, md5)
                break
            except (OSError, RuntimeError) as reason:
                last = reason
        else:
            raise RuntimeError(f"no mirror serves {name}: {first_line(last)}")


def _download_cifar10(folder: Path) -> None:
    CIFAR10(str(folder), download=True)
    (folder / CIFAR10.filename).unlink()


def _place(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file whole or not at all; a folder that can't be written only means that it is not kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".write-") as folder:
            write(Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
    except OSError:
        pass


def _verify(path: Path, md5: str) -> None:
    if not check_md5(str(path), md5):
        raise DataError(f"{path} is damaged or cut short (its MD5 is not {md5}); delete it to fetch it anew")
