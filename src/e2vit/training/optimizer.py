"""The optimizers that a training configuration can name: Adam, AdamW, and Muon for the layers in the middle.

Muon orthogonalizes the update of each weight matrix: all singular values become equal. Filters and group-tied layers are
seen as matrices. The first and the last layer, positional encodings, biases and norms stay with AdamW.
Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; the code is torch's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

OPTIMIZERS = ("adamw", "adam", "muon")
# Parts of the names of first layers, last layers and positional encodings.
OUTER = {"embed", "lifting", "head", "classify", "top", "position", "element", "bias"}
FIRST = ("stem.0.weight", "layers.0.weight")  # first filters of the hybrid and of the group-equivariant CNN


class Joined(torch.optim.Optimizer):
    """Several optimizers that step, save and load as one; they share one list of groups and one state."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._link()

    def _link(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._link()


def muon(arrays: list[nn.Parameter], **settings) -> torch.optim.Optimizer:
    """torch's Muon over arrays of two and more axes; it steps matrices that share their memory.

    Three axes are (relative pose, in, out) of a group-tied layer: rows are what comes in. Of filters, rows are what goes
    out. Error: ValueError where torch is too old to know Muon (below 2.9).
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

    def zero_grad(set_to_none: bool = True) -> None:
        for array, matrix in zip(arrays, matrices, strict=True):
            array.grad, matrix.grad = None, None

    optimizer.register_step_pre_hook(show_gradients)
    optimizer.zero_grad = zero_grad
    return optimizer


def make_optimizer(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The named optimizer over what of the model is trained; biases, norms and single numbers do not decay.

    "adam" decays all alike and through the gradient, as the released networks do. "muon" takes steps as large as AdamW's
    would be, so that both take the same learning rate.
    """
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    hidden = [p for key, p in trained.items() if name == "muon" and p.ndim > 1 and _is_hidden(key)]
    taken = {id(p) for p in hidden}
    decayed = [p for p in trained.values() if p.ndim > 1 and id(p) not in taken]
    others = [p for p in trained.values() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": weight_decay if name == "adam" else 0.0}]
    make = partial(
        torch.optim.Adam if name == "adam" else torch.optim.AdamW, lr=learning_rate, weight_decay=weight_decay
    )
    groups = [group for group in groups if group["params"]]
    parts = [make(groups)] if groups else []
    if hidden:
        parts.append(muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return Joined(*parts) if len(parts) > 1 else parts[0]


def _is_hidden(key: str) -> bool:
    return key not in FIRST and OUTER.isdisjoint(key.split("."))
