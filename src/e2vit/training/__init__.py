"""Training and fine-tuning."""

from e2vit.training.fine_tuning import FineTuneConfig, fine_tune
from e2vit.training.loop import Diverged, OutOfTime, TrainConfig, Trained, make_accelerator, train

__all__ = [
    "Diverged",
    "FineTuneConfig",
    "OutOfTime",
    "TrainConfig",
    "Trained",
    "fine_tune",
    "make_accelerator",
    "train",
]
