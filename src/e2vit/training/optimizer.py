"""The optimizers that a training configuration can name: Adam, AdamW, and Muon for the layers in the middle.

Muon orthogonalizes the update of each weight matrix: all singular values become equal. Filters and group-tied layers
are seen as matrices. The first and the last layer, positional encodings, biases and norms stay with AdamW.
Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; the code is torch's.
"""

from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("adamw", "adam", "muon")
# Parts of the names of first layers, last layers and positional encodings.
OUTER = {"embed", "lifting", "head", "classify", "top", "position", "element", "bias"}
FIRST = ("stem.0.weight", "layers.0.weight")  # first filters of the hybrid and of the group-equivariant CNN


def muon(arrays: list[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """torch's Muon over arrays of two and more axes; it steps matrices that share their memory.

    Three axes are (relative pose, in, out) of a group-tied layer: its rows are inputs. The rows of filters are outputs.
    Error: ValueError where torch is older than 2.9 and has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"the optimizer muon needs torch 2.9 or newer, this is {torch.__version__}")
    matrices = [
        nn.Parameter(p.detach().view(-1, p.shape[-1]) if p.ndim == 3 else p.detach().view(p.shape[0], -1))
        for p in arrays
    ]
    optimizer = torch.optim.Muon(matrices, **settings)

    def show_gradients(optimizer, args, kwargs) -> None:
        for array, matrix in zip(arrays, matrices, strict=True):
            matrix.grad = None if array.grad is None else array.grad.view_as(matrix)

    def drop_gradients(optimizer, args, kwargs) -> None:
        optimizer.zero_grad()  # of the matrices: the arrays' own are freed by the model

    optimizer.register_step_pre_hook(show_gradients)
    optimizer.register_step_post_hook(drop_gradients)
    return optimizer


def make_optimizers(
    name: str, model: nn.Module, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The named optimizer over the trainable parameters; biases, norms and single numbers do not decay.

    "adam" decays all alike and through the gradient, as the official networks do. "muon" is a pair: AdamW for the outer
    layers, and Muon with steps as large as AdamW's would be, so that both take the same learning rate.
    Gradients are cleared by the model's ``zero_grad``, since Muon steps other tensors than the model's.
    """
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    hidden = [p for key, p in trained.items() if name == "muon" and p.ndim > 1 and _is_hidden(key)]
    taken = {id(p) for p in hidden}
    decayed = [p for p in trained.values() if p.ndim > 1 and id(p) not in taken]
    others = [p for p in trained.values() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": weight_decay if name == "adam" else 0.0}]
    groups = [group for group in groups if group["params"]]
    make = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    optimizers: list[torch.optim.Optimizer] = (
        [make(groups, lr=learning_rate, weight_decay=weight_decay)] if groups else []
    )
    if hidden:
        optimizers.append(muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _is_hidden(key: str) -> bool:
    return key not in FIRST and OUTER.isdisjoint(key.split("."))
