"""What a test of equivariance needs: redrawn parameters, and an assertion that names the error."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from e2vit.actions import equivariance_error
from e2vit.groups import FiniteGroup


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64 and evaluation mode with every parameter and running statistic redrawn.

    A branch that is initialized to zero would hide a broken symmetry.
    """
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
    return module


def assert_equivariant(f: Callable[[Tensor], Tensor], x: Tensor, group: FiniteGroup, tolerance: float = 1e-10) -> None:
    """Assert that f commutes with every element of the group on x, to a relative error of at most ``tolerance``."""
    error = equivariance_error(f, x, group)
    assert error <= tolerance, f"{f} does not commute with {group}: relative error {error:.3g}, tolerance {tolerance:g}"
