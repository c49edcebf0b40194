"""Your own images as ``Splits``: from a folder with one folder for each class, or from tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder

from e2vit.data.sources import DataError, first_line
from e2vit.data.split import Split, Splits

PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def from_folder(
    path: str | Path, image_size: int | None = None, validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> Splits:
    """The images of a folder that holds one folder for each class, as uint8, gray where every file is gray.

    image_size: reduces or enlarges each image to that many pixels a side; without it all must have one size.
    validation, test: fractions cut off from every class, drawn with the seed. Folders train, validation and test inside
                the folder, each with the classes, are taken as they are; a missing one is cut off from train.
    Error: DataError, one sentence, for a folder without images, a damaged image, or images of several sizes.
    """
    path = Path(path).expanduser()
    there = {PARTS[p.name]: p for p in (path.iterdir() if path.is_dir() else ()) if p.name in PARTS}
    if "train" not in there:
        images, labels, names = read_folder(path, image_size)
        return from_tensors(images, labels, validation, test, seed, names, path.name, str(path))
    parts = {part: read_folder(folder, image_size) for part, folder in there.items()}
    images, labels, names = parts["train"]
    if any(part[2] != names for part in parts.values()):
        raise DataError(f"the folders {', '.join(p.name for p in there.values())} in {path} hold different classes")
    validation, test = (0.0 if p in parts else f for p, f in (("validation", validation), ("test", test)))
    splits = stratified(Split(images, labels), validation, test, seed)
    given = {part: Split(*parts[part][:2]) for part in ("validation", "test") if part in parts}
    return _said(Splits(**(splits | given), name=path.name, origin=str(path), classes=len(names), class_names=names))


def from_tensors(
    images: Tensor,
    labels: Tensor,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    class_names: tuple[str, ...] = (),
    name: str = "own images",
    origin: str = "tensors",
) -> Splits:
    """Images (n, channel, height, width), uint8 or float in [0, 1], and labels (n,) as stratified splits.

    labels: integers from 0 on, or (n, class) of zeros and ones for several labels an image.
    Error: ValueError, one sentence, for other types, shapes, ranges, or a class that is missing.
    """
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    if labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        labels = labels.long()
    whole = Split(images, labels)
    check_range(images)
    if labels.ndim == 1 and len(labels):
        found = labels.unique()
        if found[0] != 0 or found[-1] != len(found) - 1:
            raise ValueError(
                f"labels are 0 to classes − 1 with every class present, these are {found.tolist()[:12]}; "
                "labels.unique(return_inverse=True)[1] numbers them so"
            )
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1 if len(labels) else 0
    parts = stratified(whole, validation, test, seed)
    return _said(Splits(**parts, name=name, origin=origin, classes=classes, class_names=tuple(class_names)))


def read_folder(path: Path, image_size: int | None = None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (n, channel, height, width) uint8, labels (n,) and names of the classes, in alphabetical order."""
    try:
        folder = ImageFolder(str(path))
        pictures = []
        for file, _ in folder.samples:
            picture = Image.open(file)
            picture = picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB")
            if image_size is not None:
                picture = picture.resize((image_size, image_size), Image.Resampling.BOX)
            pictures.append(picture)
    except (OSError, SyntaxError, ValueError) as reason:
        raise DataError(f"{path} can't be read as images in one folder for each class: {first_line(reason)}") from None
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise DataError(f"the images in {path} have {len(sizes)} sizes, such as {sorted(sizes)[:2]}: give image_size=")
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    arrays = np.stack([np.atleast_3d(np.asarray(picture.convert(mode))) for picture in pictures])
    images = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(folder.targets), tuple(folder.classes)


def stratified(whole: Split, validation: float, test: float, seed: int) -> dict[str, Split]:
    """Train, validation and test: these fractions of every class, at least one image of each, drawn with the seed."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(f"validation and test are fractions with a sum below 1, got {validation} and {test}")
    labels = whole.labels.numpy() if whole.labels.ndim == 1 else np.zeros(len(whole), int)
    random, rows = np.random.RandomState(seed), {"validation": [], "test": [], "train": []}
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        sizes = [max(1, round(f * len(of_class))) if f else 0 for f in (validation, test)]
        if sum(sizes) >= len(of_class):
            raise ValueError(f"class {label} has {len(of_class)} images, too few for three splits")
        for part, some in zip(rows, np.split(of_class, np.cumsum(sizes)), strict=True):
            rows[part].append(some)
    return {part: whole[torch.from_numpy(np.sort(np.concatenate(some)))] for part, some in rows.items()}


def check_range(images: Tensor) -> None:
    """Refuses float images outside [0, 1]. Error: ValueError."""
    if images.is_floating_point() and images.numel():
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"float images lie in [0, 1], these in [{low:.3g}, {high:.3g}]: divide them by their largest value, or "
                "give bytes (uint8); a DataLoader may give normalized images"
            )


def _said(splits: Splits) -> Splits:
    """Prints what was found."""
    images, sizes = splits.train.images, [len(s) for s in (splits.train, splits.validation, splits.test)]
    kind = "uint8, 0 to 255" if images.dtype == torch.uint8 else f"{str(images.dtype).split('.')[-1]} in [0, 1]"
    names = f" ({', '.join(splits.class_names[:8])})" if splits.class_names else ""
    print(
        f"{splits.origin}: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images, "
        f"{'×'.join(map(str, images.shape[1:]))}, {kind}; {splits.classes} classes{names}"
    )
    return splits
