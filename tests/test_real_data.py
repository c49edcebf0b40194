"""Real images: public archives of the right form, converted exactly, in fixed, disjoint and stratified folds."""

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from e2vit import data
from e2vit.actions import act
from e2vit.data import load, real
from e2vit.data.sources import DataError
from e2vit.groups import dihedral

SPLITS = Path(real.__file__).parent / "splits"
D4 = dihedral(4)


@pytest.fixture(autouse=True)
def no_memory():
    """Each test reads its files anew."""
    data._load.cache_clear()


def batches(root: Path, payload=None) -> tuple[np.ndarray, np.ndarray]:
    """An archive as MiraBest's, of nine batches of three images each; payload takes the place of the last batch."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (27, 150, 150)).astype(np.uint8)
    labels = random.randint(0, 2, 27).astype(np.uint8)
    (root / "mirabest").mkdir()
    with tarfile.open(root / "mirabest" / "batches.tar.gz", "w:gz", compresslevel=1) as files:
        for number, name in enumerate(real.MIRABEST_BATCHES):
            rows = slice(3 * number, 3 * number + 3)
            batch = {"data": images[rows].reshape(3, -1), "labels": labels[rows].tolist(), "filenames": ["a", "b", "c"]}
            last = payload is not None and name == "test_batch"
            content = pickle.dumps(payload if last else batch, protocol=2)
            member = tarfile.TarInfo(f"batches/{name}")
            member.size = len(content)
            files.addfile(member, io.BytesIO(content))
    return images, labels


def test_the_public_batches_of_galaxies_are_read_in_their_order(tmp_path, monkeypatch):
    images, labels = batches(tmp_path)
    found = real.MiraBest(str(tmp_path))
    assert (found.data == images).all() and (found.targets == labels).all()
    with pytest.raises(DataError, match="are not the 792 published ones"):
        real.mirabest(tmp_path)
    monkeypatch.setattr(real, "MIRABEST_SHA256", hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())
    reduced, targets = real.mirabest(tmp_path)
    assert reduced.shape == (27, 1, 64, 64) and targets.tolist() == labels.tolist()


def test_a_batch_that_names_code_is_refused_unrun(tmp_path):
    batches(tmp_path, payload={"data": print, "labels": [0]})
    with pytest.raises(DataError, match="a batch holds arrays and lists, not .*print"):
        real.mirabest(tmp_path)


def test_galaxies_are_cropped_about_their_center_and_averaged_exactly():
    images = torch.zeros(1, 1, 150, 150, dtype=torch.uint8)
    images[0, 0, 11, 11], images[0, 0, 10, :] = 200, 255  # the first pixel of the crop, and a row outside it
    assert real.cropped_and_reduced(images)[0, 0, 0, 0] == 50 and real.cropped_and_reduced(images).sum() == 50
    random = torch.randint(0, 256, (2, 1, 150, 150), dtype=torch.uint8)
    for g in range(8):
        assert torch.equal(
            real.cropped_and_reduced(act(D4, g, random)), act(D4, g, real.cropped_and_reduced(random))
        ), "reducing commutes with the symmetries of the square"


def test_satellite_tiles_come_through_torchvision(tmp_path):
    kinds = ("AnnualCrop", "Forest", "River")
    for kind in kinds:
        folder = tmp_path / "eurosat" / "2750" / kind
        folder.mkdir(parents=True)
        for number in range(12):
            color = (number, 10 * kinds.index(kind), 1)
            picture = Image.new("RGB", (64, 64), color)
            picture.putpixel((0, 0), (255, 255, 255))  # not blank
            picture.save(folder / f"{kind}_{number}.jpg", format="PNG")  # lossless, whatever its name
    splits = load("eurosat/fold1", tmp_path)
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == 36 and splits.classes == 10
    assert set(torch.cat([part.labels for part in parts]).tolist()) == {0, 1, 2}
    assert all((part.images[:, 1, 5, 5] == 10 * part.labels).all() for part in parts)


def test_a_folder_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "mirabest").mkdir()
    (tmp_path / "mirabest" / "batches.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="can't be read as MiraBest's batches"):
        real.mirabest(tmp_path)


@pytest.mark.parametrize(("name", "count", "out"), [("mirabest", 792, 6), ("rsscn7", 2800, 0)])
def test_the_committed_parts_are_of_equal_size_and_leave_out_what_is_blank(name, count, out):
    parts = real.read_parts(SPLITS / f"{name}.txt")
    sizes = parts[parts >= 0].bincount(minlength=10)
    assert len(parts) == count and (parts < 0).sum() == out and sizes.max() - sizes.min() <= 1


def test_blank_and_repeated_images_are_left_out_and_classes_spread():
    images = torch.randint(0, 256, (43, 1, 4, 4), dtype=torch.uint8)
    images[3], images[7], images[12] = 0, 9, images[11]
    labels = torch.arange(43) % 2
    parts = real.stratified_parts(images, labels)
    assert torch.nonzero(parts < 0)[:, 0].tolist() == [3, 7, 12]
    for label in (0, 1):
        assert parts[(labels == label) & (parts >= 0)].bincount(minlength=10).min() >= 1


def test_folds_test_every_image_once_and_mix_nothing(monkeypatch):
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None] + torch.tensor([0, 1], dtype=torch.uint8)
    labels = torch.arange(60) % 3
    monkeypatch.setitem(real.SETS, "eurosat", (lambda root: (images, labels), "", ("a", "b", "c")))
    tested = []
    for number in range(real.FOLDS):
        splits = real.fold("eurosat", number, Path())
        parts = (splits.train, splits.validation, splits.test)
        seen = [set(part.images[:, 0, 0, 0].tolist()) for part in parts]
        assert [len(part) for part in seen] == [42, 6, 12] and len(set.union(*seen)) == 60
        tested += seen[2]
    assert sorted(tested) == list(range(60))


@pytest.mark.parametrize("name", ["mirabest", "rsscn7"])
def test_the_committed_parts_are_those_of_the_published_images(name):
    root = Path(os.environ.get("E2VIT_DATA", ""))
    if (root / name).exists():  # where the images are
        images, labels = real.SETS[name][0](root)
        assert torch.equal(real.stratified_parts(images, labels), real.read_parts(SPLITS / f"{name}.txt"))
