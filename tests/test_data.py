"""Loaders: the ladder of rotated MNIST, three disjoint splits, fingerprints, and data that is damaged or missing."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from e2vit import data
from e2vit.actions import rotate
from e2vit.data import DataError, as_float, embedded, load, sources, subset


@pytest.fixture(autouse=True)
def no_memory():
    """Each test reads its files anew."""
    data._load.cache_clear()


def test_without_any_file_the_embedded_digits_serve_and_say_so(tmp_path):
    with pytest.warns(UserWarning, match="embedded digits"):
        splits = load("rotmnist", tmp_path)
    assert splits.origin == "rebuilt from embedded digits"
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [1000, 197, 600]
    assert splits.train.images.shape[1:] == (1, 28, 28) and splits.train.images.dtype == torch.uint8
    assert splits.fingerprint == embedded("rotmnist").fingerprint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rotmnist", "rotmnist_upright", "mnist", "digits"])
def test_splits_are_disjoint_and_hold_all_classes(name):
    splits = embedded(name)
    parts = (splits.train, splits.validation, splits.test)
    seen = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert not (seen[0] & seen[1]) and not (seen[0] & seen[2]) and not (seen[1] & seen[2])
    assert set(splits.train.labels.tolist()) == set(range(10))


def test_the_recipe_rotates_each_digit_by_its_own_angle():
    upright, rotated = embedded("rotmnist_upright"), embedded("rotmnist")
    assert torch.equal(upright.train.labels, rotated.train.labels)
    assert torch.equal(upright.test.images, rotated.test.images)
    same = (upright.train.images == rotated.train.images).flatten(1).all(1)
    assert same.float().mean() < 0.01
    # Some angle brings each digit back to what it was, and the angles that do are spread over the whole circle.
    angles = torch.arange(0, 360, 10)
    back = torch.stack([rotate(as_float(rotated.train.images[:200]), -float(a)) for a in angles])
    error = (back - as_float(upright.train.images[:200])).square().mean((2, 3, 4))
    assert error.min(0).values.mean() < 0.3 * error.mean()
    assert torch.histc(angles[error.argmin(0)].float(), 4, 0, 360).min() > 25


def test_fractions_are_stratified_seeded_and_in_order():
    train = embedded("digits").train
    tenth = subset(train, 0.1, seed=3)
    counts, all_counts = tenth.labels.bincount(minlength=10), train.labels.bincount(minlength=10)
    assert ((counts - all_counts / 10).abs() <= 0.5).all()
    assert torch.equal(tenth.images, subset(train, 0.1, seed=3).images)
    assert not torch.equal(tenth.images, subset(train, 0.1, seed=4).images)
    for fraction in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="fraction"):
            subset(train, fraction, seed=0)


def official(folder: Path, rows: tuple[int, int] = (20, 30)) -> np.ndarray:
    """Writes an archive in the official format, small, with random digits; returns the images."""
    random = np.random.RandomState(0)
    images, labels = random.rand(sum(rows), 28, 28).round(4), random.randint(0, 10, sum(rows))
    with zipfile.ZipFile(folder / "mnist_rotation_new.zip", "w") as file:
        for member, part in zip(sources.ROTMNIST_MEMBERS, (slice(0, rows[0]), slice(rows[0], None)), strict=True):
            columns = images[part].transpose(0, 2, 1).reshape(-1, 784)  # column by column, as the official files
            table = np.concatenate([columns, labels[part, None]], 1)
            file.writestr(member, "\n".join(" ".join(f"{v:.4f}" for v in row) for row in table))
    return images


def test_the_official_archive_is_read_column_by_column(tmp_path, monkeypatch):
    expected = torch.from_numpy((official(tmp_path) * 255).round()).byte()
    with pytest.raises(DataError, match="MD5"):  # a good zip, but not the official one
        sources.official_rotmnist(tmp_path)
    monkeypatch.setattr(sources, "_verify", lambda path, md5: None)
    with pytest.raises(DataError, match=r"shape \(50, 785\)"):
        sources.official_rotmnist(tmp_path)
    monkeypatch.setattr(sources, "ROTMNIST_ROWS", (20, 30))
    images, labels = sources.official_rotmnist(tmp_path)
    assert (images[:, 0].int() - expected.int()).abs().max() <= 1 and labels.shape == (
        50,
    )  # a tie may round either way
    assert not torch.equal(images[:, 0], expected.transpose(1, 2))


def test_aerial_scenes_are_read_from_the_original_photographs(tmp_path):
    random = np.random.RandomState(0)
    for label in "ab":
        (tmp_path / "RSSCN7" / label).mkdir(parents=True)
        for number in range(2):
            pixels = random.randint(0, 256, (128, 128, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "RSSCN7" / label / f"{number}.png")
    images, labels = sources.rsscn7(tmp_path)
    assert images.shape == (4, 3, 64, 64) and labels.tolist() == [0, 0, 1, 1]
    boxes = torch.from_numpy(pixels).permute(2, 0, 1).double().unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean((2, 4))
    assert (images[-1].double() - boxes).abs().max() <= 1


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(DataError, match="did you mean rotmnist"):
        load("rot-mnist")
    with pytest.raises(DataError, match="no data set is called 'zzz'"):
        load("zzz")


@pytest.mark.parametrize("name", ["cifar10", "pcam", "rsscn7", "rsscn7/fold0", "mirabest/fold0", "eurosat/fold0"])
def test_data_that_is_not_here_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("E2VIT_OFFLINE", "1")
    with pytest.raises(DataError, match=f"(?i){name[:7]}") as reason:
        load(name, tmp_path)
    assert "\n" not in str(reason.value) and str(tmp_path) in str(reason.value)


def test_the_data_root_is_argument_then_environment_then_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("E2VIT_DATA", str(tmp_path))
    assert data.data_root("/x") == Path("/x") and data.data_root() == tmp_path
    monkeypatch.delenv("E2VIT_DATA")
    assert data.data_root().parts[-2:] == ("data", "raw")


def test_rotated_mnist_is_whole_and_not_transposed():
    """On the files that E2VIT_DATA names; without them on the embedded digits, which stand in for both data sets."""
    splits, mnist = load("rotmnist"), load("mnist")
    if "embedded" not in splits.origin:
        assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [10_000, 2_000, 50_000]
        assert [len(s) for s in (mnist.train, mnist.validation, mnist.test)] == [55_000, 5_000, 10_000]
    assert best_match(splits, mnist, transposed=False) < best_match(splits, mnist, transposed=True)


def best_match(splits, mnist, transposed: bool) -> float:
    """Mean distance of 50 rotated digits to their nearest MNIST digit over 24 angles, optionally transposed."""
    digits = as_float(splits.train.images[:50])
    digits = digits.transpose(-2, -1) if transposed else digits
    views = torch.stack([rotate(digits, 15.0 * k) for k in range(24)]).flatten(2)
    return torch.cdist(views, as_float(mnist.train.images[:5000]).flatten(1)).amin((0, 2)).mean().item()
