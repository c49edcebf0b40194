"""Input from outside, damaged at random: only the documented errors come out, and no file is left anywhere.

``make soak`` tries 12,000 inputs, ``make test`` a tenth of them.
"""

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from e2vit.data.formats import DataError
from PIL import Image

from e2vit.data import formats
from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.experiments.records import RecordError

TRIES = [pytest.param(300, id="300"), pytest.param(3000, id="3000", marks=pytest.mark.soak)]
MOST = 1 << 20  # bytes of an array
RECORD = Path(__file__).resolve().parents[1] / "data" / "results" / "rotmnist" / "hybrid-c4-tenth" / "seed0.json"


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, bytes drawn anew, the end cut off, a piece doubled or left out."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(data)) if data else 0
        match chance.randrange(5):
            case 0 if data:
                data[place] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
            case 2:
                del data[place:]
            case 3:
                data[place:place] = data[place : place + chance.randrange(1, 64)]
            case 4:
                del data[place : place + chance.randrange(1, 64)]
    return bytes(data)


def npz(compressed: bool = True, **arrays) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def images_file() -> bytes:
    return npz(compressed=False, images=np.full((4, 8, 8, 3), 7, np.uint8), labels=np.arange(4))


def jpeg_file() -> bytes:
    pictures = []
    for shade in (10, 200):
        file = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(file, "JPEG")
        pictures.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, pictures)])
    return npz(compressed=False, jpeg=np.frombuffer(b"".join(pictures), np.uint8), offsets=offsets, labels=np.arange(2))


def archive_file() -> bytes:
    file = io.BytesIO()
    row = " ".join(["0.5"] * 784 + ["3"])
    with zipfile.ZipFile(file, "w") as archive:
        for member in formats.ROTMNIST_MEMBERS:
            archive.writestr(member, f"{row}\n{row}\n")
    return file.getvalue()


def idx_file() -> bytes:
    return b"\0\0\x08\x03" + np.array([2, 3, 3], ">u4").tobytes() + bytes(18)


READERS = {  # what is read -> a good file, and the reader
    "images": (images_file, lambda path: formats.read_npz(path, MOST, "images", "labels")),
    "jpegs": (jpeg_file, lambda path: formats.read_jpegs(path, 10, 32)),
    "archive": (archive_file, lambda path: formats.read_rotmnist_archive(path, rows=(2, 2))),
    "idx": (idx_file, lambda path: formats.read_idx(path.read_bytes(), path)),
}


@pytest.mark.filterwarnings("ignore")  # of numpy, on text that holds no data
@pytest.mark.parametrize("tries", TRIES)
@pytest.mark.parametrize("what", READERS)
def test_a_damaged_file_is_refused_in_one_sentence_or_read(what, tries, tmp_path):
    make, read = READERS[what]
    good, path, refused = make(), tmp_path / "file", 0
    path.write_bytes(good)
    read(path)
    chance = random.Random(what)
    for _ in range(tries):
        path.write_bytes(damaged(good, chance))
        try:
            read(path)
        except DataError as reason:
            refused += 1
            assert str(path) in str(reason)
    assert refused > tries / 20  # the damage does reach the reader
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("tries", TRIES)
def test_a_damaged_record_is_refused_in_one_sentence(tries, tmp_path):
    """Without a digest that fits, no change whatever passes but one of the white space."""
    entry = EXPERIMENTS["rotmnist/hybrid-c4-tenth"]
    path = tmp_path / entry.name / "seed0.json"
    path.parent.mkdir(parents=True)
    good, chance = RECORD.read_bytes(), random.Random(1)
    path.write_bytes(good)
    whole = records.read(entry, 0, tmp_path)
    for _ in range(tries):
        path.write_bytes(damaged(good, chance))
        try:
            assert records.read(entry, 0, tmp_path) == whole
        except RecordError as reason:
            assert str(path) in str(reason)


@pytest.mark.parametrize("tries", TRIES)
def test_a_record_with_a_digest_that_fits_is_still_checked(tries, tmp_path):
    """Whoever writes a record by hand can compute the digest, too. Then its parts must have their types."""
    entry = EXPERIMENTS["rotmnist/hybrid-c4-tenth"]
    path = tmp_path / entry.name / "seed0.json"
    path.parent.mkdir(parents=True)
    chance, whole = random.Random(2), json.loads(RECORD.read_bytes())
    for _ in range(tries):
        record = json.loads(json.dumps(whole))
        part = record
        while True:
            key = chance.choice(sorted(part))
            if isinstance(part[key], dict) and part[key] and chance.random() < 0.6:
                part = part[key]
                continue
            break
        if chance.random() < 0.3:
            del part[key]
        else:
            part[key] = chance.choice((None, -1, 1e400, "", "x" * 1000, [], {}, [[]], True, {"name": []}, 10**40))
        record["digest"] = records._digest(record)
        path.write_text(json.dumps(record))
        try:
            records.read(entry, 0, tmp_path)
        except RecordError as reason:
            assert str(path) in str(reason)


@pytest.mark.parametrize("member", ["../outside.npy", "/tmp/e2vit-outside.npy", "images.npy/../../outside.npy"])
def test_an_archive_can_not_write_outside_its_folder(member, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "file.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "0")
    with pytest.raises(DataError):
        formats.read_npz(path, MOST, "images")
    with pytest.raises(DataError):
        formats.read_rotmnist_archive(path)
    assert [each.name for each in tmp_path.rglob("*")] == ["inside", "file.npz"]
    assert not Path("/tmp/e2vit-outside.npy").exists()


def test_an_archive_that_would_unpack_without_end_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in formats.ROTMNIST_MEMBERS:
            archive.writestr(member, bytes(2 * 785 * formats.BYTES_PER_NUMBER + 1))
    with pytest.raises(DataError, match="too many for 2 rows"):
        formats.read_rotmnist_archive(path, rows=(2, 2))


def test_an_array_whose_header_promises_more_than_the_file_holds_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)})
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DataError, match="promises more"):
        formats.read_npz(path, MOST, "images")
