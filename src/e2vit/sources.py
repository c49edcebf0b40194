"""Where raw images come from: finding, fetching, verifying and reading the files behind the data sets.

torchvision's helpers do the fetching (progress bar, MD5). A file is fetched into a temporary folder beside its place
and renamed into it, so that no half file is ever seen.
"""

import gzip
import io
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, MNIST, PCAM
from torchvision.datasets.utils import check_md5, download_url

Labeled = tuple[Tensor, Tensor]    # images (n, channel, height, width) uint8, labels (n,) int64

ROTMNIST_URL = "http://www.iro.umontreal.ca/~lisa/icml2007data/mnist_rotation_new.zip"
ROTMNIST_MD5 = "0f9a947ff3d30e95cd685462cbf3b847"
ROTMNIST_MEMBERS = tuple(f"mnist_all_rotation_normalized_float_{part}.amat" for part in ("train_valid", "test"))
ROTMNIST_ROWS = (12_000, 50_000)
BYTES_PER_NUMBER = 32      # of text, at most: what a member of the archive may weigh follows
LARGEST_ARRAY = 4 << 30    # bytes of one array in a file; the largest that is read is a quarter of it


# What reading a damaged archive may raise: zlib has an error of its own, an encrypted member is a RuntimeError, an unknown
# compression a NotImplementedError.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


class DataError(Exception):
    """Data that can't be used, with the reason in one sentence."""


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
        images, labels = _npz(compact, "images", "labels")
    if images.shape != (sum(ROTMNIST_ROWS), 28, 28) or labels.shape != (sum(ROTMNIST_ROWS),):
        raise DataError(f"{compact} holds shape {images.shape}, expected 62,000 images of 28×28; delete it to redo")
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))


def read_rotmnist_archive(
    archive: Path, members: tuple[str, ...] = ROTMNIST_MEMBERS, rows: tuple[int, ...] = ROTMNIST_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) uint8 from text files of 785 columns, pixels column by column first."""
    tables = []
    try:
        with zipfile.ZipFile(archive) as files:
            for member, count in zip(members, rows, strict=True):
                if files.getinfo(member).file_size > count * 785 * BYTES_PER_NUMBER:
                    raise DataError(f"{member} in {archive} would unpack to {files.getinfo(member).file_size:,} bytes, "
                                    f"too many for {count} rows of 785 numbers")
                with files.open(member) as text:    # never extracted: a member's name can't lead out of the folder
                    table = np.loadtxt(io.TextIOWrapper(text), dtype=np.float32, max_rows=count + 1)
                if table.shape != (count, 785):
                    raise DataError(f"{member} in {archive} has shape {table.shape}, expected ({count}, 785)")
                tables.append(table)
    except UNREADABLE as reason:
        raise DataError(f"{archive} can't be read as the rotated MNIST archive: {first_line(reason)}") from None
    table = np.concatenate(tables)
    pixels, labels = table[:, :-1], table[:, -1]
    if not (np.isfinite(table).all() and pixels.min() >= 0 and pixels.max() <= 1 and np.isin(labels, range(10)).all()):
        raise DataError(f"{archive} holds pixels outside 0 to 1, or labels other than 0 to 9")
    images = (pixels * 255).round().astype(np.uint8).reshape(-1, 28, 28).transpose(0, 2, 1)
    return np.ascontiguousarray(images), labels.astype(np.uint8)


def mnist(root: Path) -> tuple[Labeled, Labeled]:
    """MNIST's 60,000 training and 10,000 test images, MD5 verified."""
    folder = root / "MNIST" / "raw"
    if not all((folder / name).exists() for name, _ in MNIST.resources):
        _fetch(folder, lambda path: _download_mnist(path / "raw"))
    arrays = []
    for name, md5 in MNIST.resources:
        _verify(folder / name, md5)
        with gzip.open(folder / name) as file:
            arrays.append(_idx(file.read(64 << 20), folder / name))
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
        return (*(_jpegs(copy / f"cifar10_{part}_jpeg.npz") for part in ("train", "test")), "CIFAR-10 (JPEG copy)")
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
        import h5py
    except ImportError:
        raise DataError("PatchCamelyon's files need the package h5py: pip install h5py") from None
    parts = []
    for part in ("train", "val", "test"):
        try:
            found = PCAM(str(root), split=part, download="E2VIT_OFFLINE" not in os.environ)
        except (RuntimeError, OSError, ImportError) as reason:
            raise Unavailable(f"PatchCamelyon is not in {root} and can't be fetched ({first_line(reason)})") from None
        arrays = []
        for key in ("images", "targets"):
            name, dataset = found._FILES[part][key][0], {"images": "x", "targets": "y"}[key]
            with h5py.File(root / "pcam" / name) as file:
                arrays.append(torch.from_numpy(file[dataset][:]))
        parts.append((arrays[0].permute(0, 3, 1, 2).contiguous(), arrays[1].flatten().long()))
    return tuple(parts)


def rsscn7(root: Path) -> Labeled:
    """RSSCN7's 2,800 aerial scenes (Zou et al., 2015) reduced to 64×64, from rsscn7/rsscn7_64.npz in the data root."""
    path = root / "rsscn7" / "rsscn7_64.npz"
    if not path.exists():
        raise Unavailable(f"{path} is missing; it holds images (2800, 64, 64, 3) and labels (2800,)")
    images, labels = _npz(path, "images", "labels")
    if images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{path} holds images of shape {images.shape} and labels of shape {labels.shape}, expected "
                        "(n, height, width, 3) and (n,)")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


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
    except OSError as reason:    # URLError, a read-only or full folder
        raise Unavailable(f"{target.name} can't be fetched into {target.parent} ({first_line(reason)})") from None
    except RuntimeError as reason:    # torchvision's word for a wrong checksum, or for no mirror that answers
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


def _npz(path: Path, *keys: str) -> list[np.ndarray]:
    """Arrays of whole numbers from an npz file. No pickle; what would not fit is refused before it is unpacked."""
    try:
        with zipfile.ZipFile(path) as file:
            if (largest := max((info.file_size for info in file.infolist()), default=0)) > LARGEST_ARRAY:
                raise ValueError(f"an array of {largest:,} bytes is more than {LARGEST_ARRAY:,}")
            arrays = [_npy(file, key) for key in keys]
    except UNREADABLE as reason:
        raise DataError(f"{path} is damaged ({first_line(reason)}); delete it to redo") from None
    return arrays


def _npy(file: zipfile.ZipFile, key: str) -> np.ndarray:
    info = file.getinfo(f"{key}.npy")
    with file.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{key} has version {version} of the npy format")
        shape, _, dtype = read_header[version](stream)
        if dtype.kind not in "iu" or math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{key} is no array of whole numbers, or its header promises more than the file holds")
    with file.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _jpegs(path: Path) -> Labeled:
    from PIL import Image

    stream, offsets, labels = _npz(path, "jpeg", "offsets", "labels")
    try:
        images = np.stack([np.asarray(Image.open(io.BytesIO(stream[a:b].tobytes()), formats=["JPEG"]).convert("RGB"))
                           for a, b in zip(offsets[:-1], offsets[1:], strict=True)])
    except (*UNREADABLE, TypeError, IndexError, SyntaxError, Image.DecompressionBombError) as reason:
        raise DataError(f"{path} holds an image that can't be read ({first_line(reason)})") from None
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path} holds {len(images)} images and labels of shape {labels.shape}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def _idx(data: bytes, path: Path) -> Tensor:
    """An array in MNIST's idx format: two zero bytes, type 8 (bytes), number of axes, their lengths, the bytes."""
    axes = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data, ">u4", count=axes, offset=4) if len(data) >= 4 + 4 * axes else np.zeros(0)
    if data[:3] != b"\0\0\x08" or not 0 < axes <= 4 or math.prod(shape.tolist()) != len(data) - 4 - 4 * axes:
        raise DataError(f"{path} is no idx file of bytes")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def first_line(reason: Exception) -> str:
    return str(reason).splitlines()[0] if str(reason) else type(reason).__name__
