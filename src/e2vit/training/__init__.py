"""Training and fine-tuning."""

from e2vit.training.config import TrainConfig
from e2vit.training.fine_tuning import FineTuneConfig, fine_tune
from e2vit.training.loop import DamagedState, Diverged, OutOfTime, Trained, make_accelerator, train

__all__ = [
    "DamagedState",
    "Diverged",
    "FineTuneConfig",
    "OutOfTime",
    "TrainConfig",
    "Trained",
    "fine_tune",
    "make_accelerator",
    "train",
]
