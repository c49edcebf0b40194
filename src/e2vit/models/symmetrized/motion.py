"""The views of an image, and what a model says of them turned back: plain numbers, so that both can be exported."""

import torch
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import _resample
from e2vit.groups import FiniteGroup

Matrix = tuple[tuple[float, float], tuple[float, float]]


def matrices(group: FiniteGroup) -> list[Matrix]:
    """The orthogonal matrix of every element; entries within 1e-9 of a whole number are that number."""

    def near(entry: float) -> float:
        return float(round(entry)) if abs(entry - round(entry)) < 1e-9 else entry

    return [((near(a), near(b)), (near(c), near(d))) for (a, b), (c, d) in group.matrices.tolist()]


def transposed(matrix: Matrix) -> Matrix:
    """The inverse of an orthogonal matrix."""
    (a, b), (c, d) = matrix
    return (a, c), (b, d)


def is_exact(matrix: Matrix) -> bool:
    """Whether the matrix permutes the pixels of a square grid."""
    return all(entry in (-1.0, 0.0, 1.0) for row in matrix for entry in row)


def move(
    matrix: Matrix, images: Float[Tensor, "batch channel height width"], mode: str = "bilinear"
) -> Float[Tensor, "batch channel height width"]:
    """f(R⁻¹x): pixels are permuted where the matrix allows it, else interpolated about the center, zero outside."""
    (a, b), (c, d) = matrix
    if not is_exact(matrix):
        rows = images.new_tensor(matrix).expand(images.shape[0], 2, 2)
        return _resample(images, rows, mode)
    if b and images.shape[-1] != images.shape[-2]:
        raise ValueError(f"a quarter turn needs a square image, got {images.shape[-2]}×{images.shape[-1]}")
    if a * d - b * c < 0:  # a rotation after the mirror x → −x
        images, a, c = images.flip(-1), -a, -c
    return images.rot90({(1, 0): 0, (0, 1): 1, (-1, 0): 2, (0, -1): 3}[int(a), int(c)], (-2, -1))


def move_vectors(matrix: Matrix, vectors: Float[Tensor, "batch *rest 2"]) -> Float[Tensor, "batch *rest 2"]:
    """Rv for vectors v = (x to the right, y upwards)."""
    return vectors @ vectors.new_tensor(matrix).T


def move_keypoints(
    matrix: Matrix, points: Float[Tensor, "batch *rest 2"], size: tuple[int, int]
) -> Float[Tensor, "batch *rest 2"]:
    """Points (column, row) of an image of that height and width, in pixels from the center of its first pixel."""
    height, width = size
    center = points.new_tensor([(width - 1) / 2, (height - 1) / 2])
    upwards = points.new_tensor([1.0, -1.0])
    return center + move_vectors(matrix, (points - center) * upwards) * upwards


def describe(matrix: Matrix) -> str:
    """What the element does to an image, in words."""
    (_, b), (_, d) = matrix
    (a, _), (c, _) = matrix
    degrees = torch.atan2(torch.tensor(-b), torch.tensor(d)).rad2deg().item() % 360
    return ("mirrored, " if a * d - b * c < 0 else "") + f"turned by {degrees:g} degrees"
