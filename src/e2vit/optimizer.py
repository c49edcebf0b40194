"""The optimizers that a training configuration can name: Adam, AdamW, and Muon for the matrices between layers.

Muon replaces the update of a matrix by the nearest one whose singular values are all alike, so that no direction learns
slower than another. What is no matrix, and the last layer, goes on with AdamW.
Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; the code is torch's.
"""

from collections.abc import Callable

import torch
from torch import nn

OPTIMIZERS = ("adamw", "adam", "muon")


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

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._link()


def make_optimizer(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The named optimizer over what of the model is trained; weights that are no matrix do not decay.

    "adam" decays all alike and through the gradient, as the released networks do. "muon": the matrices but those of
    the head, with a step as large as AdamW's would be, so that both take the same learning rate.
    Error: ValueError where torch is too old to know Muon (below 2.9).
    """
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    hidden = [p for key, p in trained.items() if p.ndim == 2 and not key.startswith("head") and name == "muon"]
    taken = {id(p) for p in hidden}
    decayed = [p for p in trained.values() if p.ndim > 1 and id(p) not in taken]
    others = [p for p in trained.values() if p.ndim <= 1]    # biases, norms and single numbers
    groups = [{"params": decayed}, {"params": others, "weight_decay": weight_decay if name == "adam" else 0.0}]
    make = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    rest = make([g for g in groups if g["params"]], lr=learning_rate, weight_decay=weight_decay)
    if not hidden:
        return rest
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"the optimizer muon needs torch 2.9 or newer, this is {torch.__version__}")
    return Joined(rest, torch.optim.Muon(hidden, lr=learning_rate, weight_decay=weight_decay,
                                         adjust_lr_fn="match_rms_adamw"))
