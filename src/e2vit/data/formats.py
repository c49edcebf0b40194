"""Files of images, read with suspicion: nothing is unpickled, extracted or unpacked beyond the size that is expected.

Every reader gives arrays or raises DataError with the path and the reason in one sentence.
"""

import gzip
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Labeled = tuple[Tensor, Tensor]  # images (n, channel, height, width) uint8, labels (n,) int64

ROTMNIST_MEMBERS = tuple(f"mnist_all_rotation_normalized_float_{part}.amat" for part in ("train_valid", "test"))
ROTMNIST_ROWS = (12_000, 50_000)
HEADER = 1 << 16  # bytes that precede the numbers of an npy file, at most
BYTES_PER_NUMBER = 32  # of text, at most: what a member of the archive may weigh follows

# What reading a damaged archive may raise: zlib has an error of its own, an encrypted member is a RuntimeError, an
# unknown compression a NotImplementedError.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)


class DataError(Exception):
    """Data that can't be used, with the reason in one sentence."""


def read_rotmnist_archive(
    archive: Path, members: tuple[str, ...] = ROTMNIST_MEMBERS, rows: tuple[int, ...] = ROTMNIST_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) uint8 from text files of 785 columns, pixels column by column first."""
    tables = []
    try:
        with zipfile.ZipFile(archive) as files:
            for member, count in zip(members, rows, strict=True):
                if files.getinfo(member).file_size > count * 785 * BYTES_PER_NUMBER:
                    raise DataError(
                        f"{member} in {archive} would unpack to {files.getinfo(member).file_size:,} bytes, "
                        f"too many for {count} rows of 785 numbers"
                    )
                with files.open(member) as text:  # never extracted: a member's name can't lead out of the folder
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


def read_npz(path: Path, most: int, *keys: str) -> list[np.ndarray]:
    """Arrays of whole numbers from an npz file; more than so many bytes in one are refused before they are unpacked."""
    try:
        with zipfile.ZipFile(path) as file:
            if (largest := max((info.file_size for info in file.infolist()), default=0)) > most + HEADER:
                raise ValueError(f"an array of {largest:,} bytes is more than {most:,}")
            return [_npy(file, key) for key in keys]
    except UNREADABLE as reason:
        raise DataError(f"{path} is damaged ({first_line(reason)}); delete it to redo") from None


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


def labeled(path: Path, images: np.ndarray, labels: np.ndarray) -> Labeled:
    """Images (n, height, width, 3) of bytes and their labels (n,) as tensors with the channels first."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} holds images of type {images.dtype} and shape {images.shape} and labels of shape "
            f"{labels.shape}, expected bytes (n, height, width, 3) and (n,)"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64))


def read_jpegs(path: Path, count: int, side: int) -> Labeled:
    """Color images of that side, at most so many, from an npz file: JPEGs end to end, where each begins, labels."""
    from PIL import Image

    def image(data: bytes) -> np.ndarray:
        picture = Image.open(io.BytesIO(data), formats=["JPEG"])
        if picture.size != (side, side):  # known before it is unpacked
            raise ValueError(f"an image is of {picture.size[0]}×{picture.size[1]} pixels")
        return np.asarray(picture.convert("RGB"))

    stream, offsets, labels = read_npz(path, count * side * side * 3, "jpeg", "offsets", "labels")
    try:
        if stream.dtype != np.uint8 or stream.ndim != 1 or offsets.ndim != 1 or not 2 <= len(offsets) <= count + 1:
            raise ValueError("no stream of bytes and places in it")
        places = [0, *offsets.tolist(), len(stream)]
        if any(a > b for a, b in zip(places[:-1], places[1:], strict=True)):
            raise ValueError("the places do not follow one another")
        images = np.stack([image(stream[a:b].tobytes()) for a, b in zip(places[1:-2], places[2:-1], strict=True)])
    except (*UNREADABLE, TypeError, IndexError, SyntaxError, Image.DecompressionBombError) as reason:
        raise DataError(f"{path} holds an image that can't be read ({first_line(reason)})") from None
    return labeled(path, images, labels)


def read_gzip_idx(path: Path, most: int) -> Tensor:
    """A compressed idx file; no more than so many bytes of it are unpacked."""
    try:
        with gzip.open(path) as file:
            return read_idx(file.read(most + 1), path)
    except UNREADABLE as reason:
        raise DataError(f"{path} can't be unpacked ({first_line(reason)})") from None


def read_idx(data: bytes, path: Path) -> Tensor:
    """An array in MNIST's idx format: two zero bytes, type 8 (bytes), number of axes, their lengths, the bytes."""
    axes = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data, ">u4", count=axes, offset=4) if len(data) >= 4 + 4 * axes else np.zeros(0)
    if data[:3] != b"\0\0\x08" or not 0 < axes <= 4 or math.prod(shape.tolist()) != len(data) - 4 - 4 * axes:
        raise DataError(f"{path} is no idx file of bytes")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def read_hdf5(path: Path, dataset: str, shape: tuple[int, ...]) -> Tensor:
    """One dataset of bytes from an HDF5 file; its type and shape are known before it is unpacked."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = file[dataset]
            if found.shape != shape or found.dtype != np.uint8:
                raise ValueError(f"{dataset} has type {found.dtype} and shape {found.shape}, expected bytes {shape}")
            return torch.from_numpy(found[:])
    except (*UNREADABLE, TypeError, AttributeError) as reason:
        raise DataError(f"{path} is damaged ({first_line(reason)}); delete it to fetch it anew") from None


def first_line(reason: Exception) -> str:
    return str(reason).splitlines()[0] if str(reason) else type(reason).__name__
