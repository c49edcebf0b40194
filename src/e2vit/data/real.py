"""Real images without an up, of 64×64 pixels, in five fixed folds: radio galaxies, aerial scenes, satellite tiles.

mirabest: radio galaxies of the FIRST survey, Fanaroff-Riley class I or II (Porter and Scaife, 2023). The 792 images of
          the first public batches, not the 1,256 of the later release. The central 128×128 of 150×150 pixels are
          reduced by the mean of 2×2, which commutes exactly with the symmetries of the square.
rsscn7:   aerial scenes of seven kinds (Zou et al., 2015), 400×400 pixels reduced to 64×64.
eurosat:  Sentinel-2 tiles of ten kinds of land use (Helber et al., 2019), 64×64 as published, through torchvision.

Blank images and repetitions are left out. What remains is cut into ten stratified parts of equal size. Fold k is tested
on the parts 2k and 2k + 1, validated on the next part, and trained on the other seven. The parts of mirabest and rsscn7
are written down in ``splits``: one character for each image in the order of the source, "-" for what is left out.
"""

import codecs
import hashlib
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import EuroSAT
from torchvision.datasets.utils import download_url

from e2vit.data import sources
from e2vit.data.sources import DataError, Labeled, first_line
from e2vit.data.split import Split, Splits

FOLDS, PARTS = 5, 10
MIRABEST_URL = (
    "https://raw.githubusercontent.com/fmporter/MiraBest/158e6690aa4162ef52792ac9dcf932fe00839838/Data/batches.tar.gz"
)
# Of the 792 images of 150×150 bytes and their labels, training batches first.
MIRABEST_SHA256 = "5dcbe0a16cd09f5b2832edaa82d2ae5f4eb2825aed0285c0d6333d578c5696e7"
MIRABEST_BATCHES = (*(f"data_batch_{number}" for number in range(1, 9)), "test_batch")


class MiraBest:
    """The public batches in ``root``/mirabest/batches.tar.gz, in the manner of torchvision's data sets.

    data: (n, 150, 150) uint8; targets: (n,) uint8. Error: OSError, RuntimeError.
    """

    def __init__(self, root: str, download: bool = False):
        archive = Path(root) / "mirabest" / "batches.tar.gz"
        if download and not archive.exists():
            download_url(MIRABEST_URL, str(archive.parent), archive.name)
        try:
            with tarfile.open(archive) as files:  # members are read, never extracted
                members = {Path(member.name).name: member for member in files}
                contents = [files.extractfile(members[name]) for name in MIRABEST_BATCHES]
                batches = [ArraysOnly(content, encoding="latin1").load() for content in contents if content]
            self.data = np.concatenate([np.asarray(b["data"], np.uint8).reshape(-1, 150, 150) for b in batches])
            self.targets = np.concatenate([np.asarray(batch["labels"], np.uint8) for batch in batches])
        except (tarfile.TarError, pickle.UnpicklingError, LookupError, ValueError, EOFError) as reason:
            raise RuntimeError(f"{archive} can't be read as MiraBest's batches ({first_line(reason)})") from None


class ArraysOnly(pickle.Unpickler):
    """Unpickle numbers, text, lists, dictionaries and arrays; refuse whatever else a pickle names, unrun."""

    ALLOWED = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "encode": codecs.encode,
    }

    def find_class(self, module: str, name: str):
        if module.partition(".")[0] in ("numpy", "_codecs") and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise pickle.UnpicklingError(f"a batch holds arrays and lists, not {module}.{name}")


def mirabest(root: Path) -> Labeled:
    """The 792 galaxies, from mirabest/mirabest_792.npz or from the public batches, which are fetched if need be."""
    packed = root / "mirabest" / "mirabest_792.npz"
    if packed.exists():
        try:
            with np.load(packed) as arrays:
                images = np.concatenate([arrays["train_images"], arrays["test_images"]])
                labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as reason:
            raise DataError(f"{packed} is damaged ({first_line(reason)})") from None
    else:
        found = sources.fetched(MiraBest, root, str(root), download=sources.online())
        images, labels = found.data, found.targets
    if hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() != MIRABEST_SHA256:
        raise DataError(
            f"the galaxies in {packed.parent} are not the 792 published ones; delete them to fetch them anew"
        )
    return cropped_and_reduced(torch.from_numpy(images)[:, None]), torch.from_numpy(labels.astype(np.int64))


def cropped_and_reduced(images: Tensor, crop: int = 128) -> Tensor:
    """The central square of bytes (n, channel, height, width), each 2×2 of it replaced by the rounded mean."""
    row, column = ((side - crop) // 2 for side in images.shape[-2:])
    central = images[..., row : row + crop, column : column + crop].int()
    sums = central.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2)).sum((-3, -1))
    return torch.div(sums + 2, 4, rounding_mode="floor").byte()


def eurosat(root: Path) -> Labeled:
    """The 27,000 tiles in color, class by class."""
    tiles = sources.fetched(EuroSAT, root, str(root), download=sources.online())
    try:
        images = np.stack([np.asarray(picture) for picture, _ in tiles])
    except (OSError, ValueError) as reason:
        raise DataError(f"{root / 'eurosat'} is damaged ({first_line(reason)}); delete it to fetch it anew") from None
    return sources.labeled(root / "eurosat", images, np.array(tiles.targets))


SETS: dict[str, tuple[Callable[[Path], Labeled], str, tuple[str, ...]]] = {  # reader, origin for captions, classes
    "mirabest": (mirabest, "MiraBest, first batches, reduced to 64×64", ("FR I", "FR II")),
    "rsscn7": (
        sources.rsscn7,
        "RSSCN7, reduced to 64×64",
        ("grass", "field", "industry", "river or lake", "forest", "houses", "parking"),
    ),
    "eurosat": (
        eurosat,
        "EuroSAT",
        (
            "annual crop",
            "forest",
            "herbs",
            "highway",
            "industry",
            "pasture",
            "permanent crop",
            "houses",
            "river",
            "sea",
        ),
    ),
}


def fold(name: str, number: int, root: Path) -> Splits:
    """Training, validation and test images of a fold, in the order of the source."""
    read, origin, class_names = SETS[name]
    images, labels = read(root)
    path = Path(__file__).parent / "splits" / f"{name}.txt"
    parts = read_parts(path) if path.exists() else stratified_parts(images, labels)
    if len(parts) != len(labels):
        raise DataError(f"{name} has {len(labels)} images, but {path.name} cuts {len(parts)}")
    test, validation = torch.isin(parts, torch.tensor([2 * number, 2 * number + 1])), parts == (2 * number + 2) % PARTS
    train = (parts >= 0) & ~test & ~validation
    cut = [Split(images[mask], labels[mask]) for mask in (train, validation, test)]
    return Splits(cut[0], cut[1], cut[2], f"{name}/fold{number}", origin, len(class_names), class_names)


LOADERS = {f"{name}/fold{number}": partial(fold, name, number) for name in SETS for number in range(FOLDS)}


def read_parts(path: Path) -> Tensor:
    """The part (0 to 9) of each image, -1 where it is left out."""
    return torch.tensor([-1 if mark == "-" else int(mark) for mark in path.read_text("utf-8").replace("\n", "")])


def stratified_parts(images: Tensor, labels: Tensor) -> Tensor:
    """As ``read_parts``, drawn with a fixed seed: blank images and repetitions out, every class in all parts."""
    random = np.random.RandomState(2023)  # its stream is frozen by NumPy's compatibility policy
    parts = torch.full((len(labels),), -1)
    kept, offset = ~(blank(images) | repeated(images)), 0
    for label in labels.unique():
        rows = torch.nonzero(kept & (labels == label))[:, 0]
        parts[rows[torch.from_numpy(random.permutation(len(rows)))]] = (torch.arange(len(rows)) + offset) % PARTS
        offset += len(rows)  # the next class begins where this one ended, so that the parts are of equal size
    return parts


def blank(images: Tensor) -> Tensor:
    """Whether all pixels of an image are the same: (n,) bool."""
    flat = images.flatten(1)
    return (flat == flat[:, :1]).all(1)


def repeated(images: Tensor) -> Tensor:
    """Whether an image equals an earlier one, bit for bit: (n,) bool."""
    first: dict[bytes, int] = {}
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images.numpy()]
    return torch.tensor([first.setdefault(digest, number) < number for number, digest in enumerate(digests)])
