"""What every classifier of images has in common: counts in its configuration, the check of its input, and forward."""

from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """Base of the models: images → features → logits. A subclass gives ``features`` and a module ``head``.

    Config: the class of its configuration, which names ``image_size``, ``in_channels`` and ``classes``.
    """

    Config: type
    head: nn.Module

    def __init__(self, config: Any):
        super().__init__()
        if not isinstance(config, self.Config):
            name = self.Config.__name__
            raise TypeError(f"{type(self).__name__} takes a configuration such as {name}(), not {config!r}")
        self.config = config

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        """What the head classifies."""
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class_"]:
        return self.head(self.features(images))

    def check(self, images: Any) -> None:
        """One clear sentence for images that do not fit, before any work is done. Error: TypeError or ValueError."""
        name, config = type(self).__name__, self.config
        if not isinstance(images, Tensor):
            raise TypeError(f"{name} takes images as a torch tensor, not {type(images).__name__}")
        expected = (config.in_channels, config.image_size, config.image_size)
        if images.ndim != 4:
            one = "; for one image, pass image[None]" if tuple(images.shape) == expected else ""
            axes = "(batch, channel, height, width)"
            raise ValueError(f"images have the axes {axes}, but their shape is {tuple(images.shape)}{one}")
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f"images have shape {tuple(images.shape[1:])}, this model takes {expected}")
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}, this model takes floats: images.float() / 255 for bytes")
        weight = next(self.parameters())
        if images.device != weight.device:
            raise ValueError(f"the images are on {images.device}, the weights of {name} are on {weight.device}")
        if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"images are {images.dtype}, the weights of {name} are {weight.dtype}")


def check_counts(config: Any, **least: int) -> None:
    """ValueError for a field of a configuration that is not a whole number, or a tuple of such, from its minimum on."""
    for field, minimum in least.items():
        value = getattr(config, field)
        several = isinstance(value, (tuple, list))
        numbers = value if several else (value,)
        wrong = any(isinstance(n, bool) or not isinstance(n, Integral) or n < minimum for n in numbers)
        if wrong or (several and not numbers and minimum):
            kind = "one or more whole numbers" if several else "a whole number"
            raise ValueError(f"{field} takes {kind} from {minimum} on, not {value!r}")
