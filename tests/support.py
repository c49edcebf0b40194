"""What many tests need."""

import torch
from beartype import BeartypeConf, beartype
from torch import nn

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int serves where a float is asked for


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode with every parameter and running statistic redrawn.

    A branch that starts at zero hides a broken symmetry.
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
