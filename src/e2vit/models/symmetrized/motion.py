"""How outputs that are vectors or points move with the image."""

from jaxtyping import Float
from torch import Tensor

from e2vit.groups import FiniteGroup


def move_vectors(group: FiniteGroup, g: int, vectors: Float[Tensor, "batch *rest 2"]) -> Float[Tensor, "batch *rest 2"]:
    """Rv for vectors v = (x to the right, y upwards)."""
    return vectors @ group.matrices[g].to(vectors.dtype).to(vectors.device).T


def move_keypoints(
    group: FiniteGroup, g: int, points: Float[Tensor, "batch *rest 2"], size: tuple[int, int]
) -> Float[Tensor, "batch *rest 2"]:
    """Points (column, row) of an image of that height and width, in pixels from the center of its first pixel."""
    height, width = size
    center = points.new_tensor([(width - 1) / 2, (height - 1) / 2])
    upwards = points.new_tensor([1.0, -1.0])
    return center + move_vectors(group, g, (points - center) * upwards) * upwards
