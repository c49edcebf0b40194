"""One's own images: folders and tensors as splits, DataLoaders, losses and augmentations of one's own."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from e2vit.data import as_float, from_folder, from_tensors
from e2vit.groups import cyclic
from e2vit.models import Symmetrized, ViT, ViTConfig
from e2vit.training import FineTuneConfig, OutOfTime, TrainConfig, fine_tune, train

CONFIG = TrainConfig(epochs=2, batch_size=20, learning_rate=3e-3, warmup_epochs=0.5, augment="none")


def pictures(count: int = 60, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Bars (class 0) and squares (class 1) at random places, as bytes."""
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 40, (count, 1, side, side)).astype(np.uint8), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        y, x = random.randint(0, side - 6, 2)
        image[0, y : y + (6 if label == 0 else 4), x : x + (1 if label == 0 else 4)] = 255
    return torch.from_numpy(images), torch.from_numpy(labels)


def small() -> ViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViT(ViTConfig(image_size=12, classes=2, patch_size=4, width=16, depth=1, heads=2))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def folder(tmp_path):
    images, labels = pictures()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "pictures" / ("bar", "square")[label] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return tmp_path / "pictures"


def test_a_folder_gives_stratified_disjoint_splits_and_says_what_it_found(folder, capsys):
    splits = from_folder(folder)
    assert splits.class_names == ("bar", "square") and splits.train.images.shape == (42, 1, 12, 12)
    assert [s.labels.bincount().tolist() for s in (splits.train, splits.validation, splits.test)] == [
        [21, 21],
        [3, 3],
        [6, 6],
    ]
    parts = [{image.tobytes() for image in s.images.numpy()} for s in (splits.train, splits.validation, splits.test)]
    assert len(parts[0] | parts[1] | parts[2]) == 60
    said = capsys.readouterr().out
    assert "42 training, 6 validation and 12 test images, 1×12×12, uint8, 0 to 255; 2 classes (bar, square)" in said
    assert torch.equal(from_folder(folder).test.images, splits.test.images)
    assert not torch.equal(from_folder(folder, seed=1).test.images, splits.test.images)


def test_folders_named_train_and_test_are_taken_as_they_are(folder):
    for part in ("train", "test"):
        (folder.parent / "parts" / part).mkdir(parents=True)
    for number, label in enumerate(("bar", "square")):
        (folder / label).rename(folder.parent / "parts" / "train" / label)
        (folder.parent / "parts" / "test" / label).mkdir()
        Image.fromarray(np.full((12, 12), number, np.uint8)).save(folder.parent / "parts" / "test" / label / "x.png")
    splits = from_folder(folder.parent / "parts", image_size=8)
    assert splits.test.images[:, 0, 0, 0].tolist() == [0, 1] and splits.train.images.shape == (54, 1, 8, 8)


def test_floats_train_as_bytes_do():
    """The images of a float data set are not divided by 255 again: every weight is the same."""
    images, labels = pictures()
    found = []
    for some in (images, as_float(images), as_float(images) / 255):
        model = small()
        train(model, from_tensors(some, labels), config=CONFIG)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 1e-3  # the control


def test_a_loader_trains_and_its_order_is_drawn_from_the_seed():
    images, labels = pictures()
    loader = DataLoader(TensorDataset(as_float(images), labels), batch_size=20, shuffle=True)
    results = []
    for seed in (0, 0, 1):
        model = small()
        result = train(model, loader, loader, CONFIG, seed=seed)
        assert [entry["epoch"] for entry in result.curve] == [1, 2]
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_run_on_a_loader_continues_within_an_epoch_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("e2vit.training.loop.SAVE_EVERY", 0.0)
    images, labels = pictures()
    loader = DataLoader(TensorDataset(images, labels), batch_size=10, shuffle=True)
    whole, interrupted, resumed = small(), small(), small()
    train(whole, loader, loader, CONFIG)
    calls = []

    def stop(module, args):
        calls.append(module.training)
        if sum(calls) > 9:
            raise KeyboardInterrupt

    interrupted.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, loader, loader, CONFIG, state_path=tmp_path / "state.pt")
    train(resumed, loader, loader, CONFIG, state_path=tmp_path / "state.pt")
    assert torch.equal(weights(whole), weights(resumed))


def test_a_loss_and_an_augmentation_of_ones_own():
    splits, seen = from_tensors(*pictures()), []

    def mirrored(images):
        seen.append(images.shape)
        return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(-1), images)

    def weighted(logits, labels):
        return nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0]))

    plain, *others = (small() for _ in range(3))
    train(plain, splits, config=CONFIG)
    for model, options in zip(others, ({"loss": weighted}, {"augmentation": mirrored}), strict=True):
        train(model, splits, config=CONFIG, **options)
        assert not torch.equal(weights(model), weights(plain))
    assert seen == [(20, 1, 12, 12)] * 4


def test_several_labels_an_image():
    images, labels = pictures()
    several = torch.stack([labels, 1 - labels], 1).float()
    result = train(small(), from_tensors(images, several), config=CONFIG)
    assert 0 <= result.curve[-1]["accuracy"] <= 1


@pytest.mark.parametrize("regime", ["none", "head", "all"])
@pytest.mark.parametrize("kind", ["splits", "loader"])
def test_a_symmetrized_model_is_fine_tuned_on_ones_own_images(regime, kind):
    splits = from_tensors(*pictures())
    model = Symmetrized(small(), cyclic(4), "learned_attention")
    config = FineTuneConfig(regime, epochs=1, rates=(1e-3,), batch_size=20)
    if kind == "splits":
        result = fine_tune(model, splits, config=config)
    else:
        parts = [DataLoader(TensorDataset(as_float(s.images), s.labels), 20) for s in (splits.train, splits.validation)]
        result = fine_tune(model, parts[0], parts[1], config)
    assert len(result.curve) == (regime != "none") and not model.training


def test_a_run_out_of_time_without_a_state_keeps_its_best_weights():
    """The deadline passes in the third epoch: the model has the weights of the best of the first two."""
    images, labels = pictures()
    loader = DataLoader(TensorDataset(as_float(images), labels), batch_size=20)
    constant = replace(CONFIG, schedule="constant", epochs=50)
    model, calls, deadline = small(), [], time.monotonic() + 5

    def slow(logits, labels):
        calls.append(1)
        if len(calls) == 7:  # the first update of the third epoch
            time.sleep(max(0, deadline - time.monotonic()) + 0.1)
        return nn.functional.cross_entropy(logits, labels)

    with pytest.raises(OutOfTime, match="the model has the best weights so far"):
        train(model, loader, loader, constant, loss=slow, deadline=deadline)
    two = small()
    train(two, loader, loader, replace(constant, epochs=2))
    assert not model.training
    assert torch.equal(weights(model), weights(two))
