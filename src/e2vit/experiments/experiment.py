"""What one experiment is, and how its untrained model is built; the experiments themselves are in ``catalog``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from e2vit.models import MODELS, Symmetrized, SymmetrizedConfig
from e2vit.training.config import TrainConfig
from e2vit.training.fine_tuning import FineTuneConfig


@dataclass(frozen=True)
class Experiment:
    """One line of the book's tables. Its fields carry its meaning; nothing parses its name."""

    name: str
    about: str
    model: Any  # a model configuration
    training: TrainConfig | FineTuneConfig
    data: str = "rotmnist"  # "{seed}" in it stands for the seed: folds
    fraction: float = 1.0  # of the training split
    all_training: bool = False  # train on training and validation images; nothing is chosen then
    base: str | None = None  # the experiment whose checkpoint the model starts from
    watch_test: bool = False  # log the test curve, for the study of test-set selection alone
    setting: str | None = None  # the comparison that the experiment belongs to
    network: str | None = None
    regime: str | None = None  # of fine-tuning
    method: str | None = None  # what varies within the comparison besides the network: an aggregate, a recipe
    seeds: int = 3
    expected: float | None = None  # test accuracy (a fraction) where no committed record gives it

    def __post_init__(self):
        if self.all_training and self.training.keep != "last":
            raise ValueError(f"{self.name} trains on the validation images, so it can't choose an epoch by them")


def build(experiment: Experiment, seed: int) -> nn.Module:
    """The untrained model of an experiment; its initial weights come from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(experiment.model)


def _built(config: Any) -> nn.Module:
    if isinstance(config, SymmetrizedConfig):
        return Symmetrized(
            _built(config.model), config.group, config.aggregate, chunk=config.chunk, interpolation=config.interpolation
        )
    return MODELS[type(config)](config)
