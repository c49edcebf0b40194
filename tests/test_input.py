"""Input made to do harm: bombs, files that lie of their size, pickles, other types and shapes, parameters of any kind.

Damage at random is in test_fuzz.
"""

import ast
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from disturbing import SMALL, work
from e2vit.data.formats import DataError
from PIL import Image
from test_fuzz import MOST, damaged, npz

from conftest import ROOT
from e2vit import experiments
from e2vit.data import formats, load
from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.experiments.records import RecordError

TRIES = [pytest.param(60, id="60"), pytest.param(2000, id="2000", marks=pytest.mark.soak)]
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(tree: ast.AST) -> list[str]:
    """What in a syntax tree may run code that stands in a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (
                name in ("torch.load", "read_pickle", "eval", "exec", "torch.hub.load", "yaml.load")
                or name.endswith((".read_pickle", "joblib.load"))
                or words.get("allow_pickle", "False") != "False"
            ):
                found.append(name)
    return found


def test_nothing_is_unpickled():
    files = [
        path for folder in ("src", "book/tools", "benchmarks", "notebooks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 40
    for path in files:
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in "%!")
        assert unpickling(ast.parse(text)) == [], path


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x', weights_only=True)",
        "eval(x)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=yes)",
        "pd.read_pickle(x)",
    ],
)
def test_what_unpickles_is_seen(text):
    assert len(unpickling(ast.parse(text))) == 1 and unpickling(ast.parse("np.load(f, allow_pickle=False)")) == []


def test_a_pickled_array_is_refused_before_it_runs_anything(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    path = tmp_path / "file.npz"
    np.savez(path, images=np.array([Harm(), {}], dtype=object))
    with pytest.raises(DataError, match="whole numbers"):
        formats.read_npz(path, MOST, "images")
    assert not (tmp_path / "harm").exists()
    np.load(path, allow_pickle=True)["images"]
    assert (tmp_path / "harm").exists()  # the control: it does run when it is let


def test_bombs_are_refused_before_they_unpack(tmp_path):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 18
    with pytest.raises(DataError, match="is more than"):
        formats.read_npz(path, MOST, "images")
    path.write_bytes(gzip.compress(b"\0\0\x08\x01" + (100 << 20).to_bytes(4, "big") + bytes(100 << 20)))
    with pytest.raises(DataError, match="no idx file"):  # cut off at the limit, so it is shorter than it says
        formats.read_gzip_idx(path, MOST)
    assert len(formats.read_gzip_idx(path, 200 << 20)) == 100 << 20  # the control


def test_a_member_that_lies_of_its_size_is_refused(tmp_path):
    """The directory of the archive says 10 bytes, and there are 100,000."""
    data = bytearray(npz(images=np.zeros(100_000, np.uint8)))
    entry = data.rindex(b"PK\1\2")
    data[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DataError):
        formats.read_npz(tmp_path / "file", MOST, "images")


@pytest.mark.parametrize(
    "count, sizes, offsets, message",
    [
        (1000, [(32, 32), (9000, 9000)], None, "9000×9000 pixels"),
        (10, [(32, 32), (32, 32)], [0, 600, 0], "do not follow"),
        (10, [(32, 32), (32, 32)], [0, 600, 10**9], "do not follow"),
        (10, [(32, 32)] * 12, None, "places in it"),
    ],
)
def test_a_stream_of_jpegs_can_not_grow(count, sizes, offsets, message, tmp_path):
    files = []
    for size in sizes:
        file = io.BytesIO()
        Image.new("L", size).save(file, "JPEG")
        files.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, files)]) if offsets is None else np.array(offsets)
    stream = np.frombuffer(b"".join(files), np.uint8)
    (tmp_path / "file").write_bytes(npz(jpeg=stream, offsets=offsets, labels=np.zeros(len(sizes), int)))
    with pytest.raises(DataError, match=message):
        formats.read_jpegs(tmp_path / "file", count, 32)


def anything(chance: random.Random) -> np.ndarray:
    """An array of any type, order of bytes and shape, with numbers of any size and kind."""
    kind = chance.choice(["u1", "i1", "<u2", ">u2", ">i4", "<i8", ">u8", "f4", "f8", "c8", "U3", "S2", "?", "M8[s]"])
    shape = chance.choice(
        [
            (),
            (0,),
            (5,),
            (2800,),
            (1, 1),
            (2800, 2),
            (3, 4, 4, 3),
            (2800, 4, 4, 3),
            (0, 4, 4, 3),
            (3, 4, 4, 1),
            (3, 3, 4, 4),
            (62_000,),
            (1, 28, 28),
        ]
    )
    array = np.frombuffer(chance.randbytes(64), np.uint8)[np.arange(int(np.prod(shape))) % 64].reshape(shape)
    if kind[0] == "f" and chance.random() < 0.5:
        return np.full(shape, chance.choice((np.nan, np.inf, -1.0)), kind)
    return array.astype(kind)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tries", TRIES)
@pytest.mark.parametrize(
    "name, file, keys",
    [
        ("rsscn7", "rsscn7/rsscn7_64.npz", ("images", "labels")),
        ("rotmnist", "rotmnist/rotmnist.npz", ("images", "labels")),
        ("cifar10", "cifar10_jpeg/cifar10_train_jpeg.npz", ("jpeg", "offsets", "labels")),
    ],
)
def test_arrays_of_any_type_and_shape_are_refused_in_one_sentence(name, file, keys, tries, tmp_path):
    """Through the public loader; rsscn7 with images that fit and labels that may lie outside gets through at times."""
    chance, path, refused = random.Random(name), tmp_path / file, 0
    path.parent.mkdir()
    for _ in range(tries):
        arrays = {key: anything(chance) for key in keys if chance.random() < 0.95}
        if chance.random() < 0.3:
            arrays["images"] = np.zeros((2800, 4, 4, 3), np.uint8)
        path.write_bytes(npz(compressed=False, **arrays))
        try:
            splits = load(name, tmp_path)
            assert 0 <= splits.train.labels.min() <= splits.train.labels.max() < splits.classes
        except DataError as reason:
            refused += 1
            assert "\n" not in str(reason)
    assert refused > tries / 2 and [each.name for each in path.parent.iterdir()] == [path.name]


def test_labels_out_of_range_are_refused(tmp_path):
    path = tmp_path / "rsscn7" / "rsscn7_64.npz"
    path.parent.mkdir()
    for worst, dtype in ((7, int), (-1, int), (2**64 - 1, np.uint64), (6, ">u8")):
        labels = np.arange(2800).astype(dtype) % 7
        labels[5] = worst
        path.write_bytes(npz(images=np.zeros((2800, 4, 4, 3), np.uint8), labels=labels))
        if worst == 6:
            assert load("rsscn7", tmp_path).train.labels.max() == 6  # the control
        else:
            with pytest.raises(DataError, match="labels outside 0 to 6"):
                load("rsscn7", tmp_path)


def test_a_damaged_hdf5_file_is_refused_and_one_of_another_shape_too(tmp_path):
    import h5py

    path, shape = tmp_path / "file.h5", (4, 6, 6, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(432).reshape(shape).astype(np.uint8), compression="gzip")
        file.create_dataset("large", shape=(1 << 20, 1 << 10, 96, 3), dtype="u1", compression="gzip", chunks=True)
        file.create_group("folder")
    assert formats.read_hdf5(path, "x", shape).shape == shape
    for dataset in ("large", "folder", "missing"):
        with pytest.raises(DataError):
            formats.read_hdf5(path, dataset, shape)
    good, chance, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        path.write_bytes(damaged(good, chance))
        try:
            formats.read_hdf5(path, "x", shape)
        except DataError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("tries", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_a_checkpoint_that_a_forged_record_names_is_refused_in_one_sentence(tries, tmp_path):
    """Its sha256 stands in the record, and the record's digest fits: only the content is left to be wrong."""
    assert work(tmp_path, tmp_path / "log") == 0
    checkpoint, chance, refused = tmp_path / SMALL.name / "seed0.safetensors", random.Random(3), 0
    good, record = checkpoint.read_bytes(), json.loads(checkpoint.with_suffix(".json").read_text())
    for _ in range(tries):
        checkpoint.write_bytes(bad := damaged(good, chance))
        record["checkpoint_sha256"] = hashlib.sha256(bad).hexdigest()
        record["digest"] = records._digest(record)
        checkpoint.with_suffix(".json").write_text(json.dumps(record))
        try:
            experiments.run(SMALL, "report", results=tmp_path)
        except RecordError as reason:
            refused += 1
            assert str(checkpoint) in str(reason) and "\n" not in str(reason)
    assert refused > tries / 4


@pytest.mark.parametrize("change", [{"seed": 1}, {"experiment": "digits/hybrid-c4"}])
def test_a_record_in_the_place_of_another_is_refused(change, tmp_path):
    name = "rotmnist/hybrid-c4-tenth"
    path = tmp_path / name / "seed0.json"
    path.parent.mkdir(parents=True)
    record = json.loads((ROOT / "data" / "results" / name / "seed0.json").read_text()) | change
    path.write_text(json.dumps(record | {"digest": records._digest(record)}))
    with pytest.raises(RecordError, match="is the record of"):
        records.read(EXPERIMENTS[name], 0, tmp_path)


PARAMETERS = """
from e2vit.experiments import run
MODES, SEEDS = (3, None, True, ["quick"], {}, "QUICK", "quick ", b"quick", ""), ("0", 1.0, -1, None, True, [0])
for given in [{"mode": mode} for mode in MODES] + [{"seed": seed} for seed in SEEDS] + [
        {"name": name} for name in (None, 5, [], "../digits/vit", "")]:
    try:
        run(**{"name": "digits/vit", "mode": "quick", "seed": 0, **given})
        print("accepted", given)
    except (ValueError, KeyError) as reason:
        print(f"{type(reason).__name__}: {reason}")
"""


def test_parameters_of_a_notebook_of_the_wrong_type_are_answered_in_one_sentence(tmp_path):
    """In a process of its own: under test, the types are checked by others before we are asked."""
    done = subprocess.run([sys.executable, "-c", PARAMETERS], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 20 and all(
        line.startswith(("ValueError: mode is one of", "ValueError: a seed is a whole", "KeyError: ")) for line in lines
    ), done.stdout
    assert list(tmp_path.iterdir()) == []
