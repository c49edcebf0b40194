"""What one experiment is, and how its untrained model is built; the experiments themselves are in ``catalog``."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    PooledHybrid,
    PooledHybridConfig,
    Symmetrized,
    SymmetrizedConfig,
    ViT,
    ViTConfig,
)
from e2vit.training.fine_tuning import FineTuneConfig
from e2vit.training.loop import TrainConfig


@dataclass(frozen=True)
class Experiment:
    """One line of the book's tables.

    expected:    test accuracy that a healthy run reaches (a fraction), for the reader and for a warning.
    gpu_minutes: cost of one seed on one H200-class GPU; cpu_minutes: on two CPU cores.
    """

    name: str
    about: str
    model: Any  # a model configuration
    training: TrainConfig | FineTuneConfig
    data: str = "rotmnist"
    fraction: float = 1.0  # of the training split
    all_training: bool = False  # train on training and validation images; nothing is chosen then
    base: str | None = None  # the experiment whose checkpoint the model starts from
    watch_test: bool = False  # log the test curve, for the study of test-set selection alone
    setting: str | None = None  # the comparison that the experiment belongs to
    network: str | None = None
    regime: str | None = None  # of fine-tuning
    method: str | None = None  # what varies within the comparison besides the network: an aggregate, a recipe
    seeds: int = 3
    expected: float | None = None
    gpu_minutes: float | int = field(kw_only=True)
    cpu_minutes: float | int = field(kw_only=True)

    def __post_init__(self):
        if self.all_training and self.training.keep != "last":
            raise ValueError(f"{self.name} trains on the validation images, so it can't choose an epoch by them")


MODELS: dict[type, type[nn.Module]] = {
    ViTConfig: ViT,
    HybridViTConfig: HybridViT,
    GroupAttentionNetConfig: GroupAttentionNet,
    GCNNConfig: GCNN,
    PooledHybridConfig: PooledHybrid,
}


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
