"""How many attention scores a model computes: one for each head, query and key, counted while it runs."""

from contextlib import ExitStack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from e2vit.layers import LocalGroupSelfAttention


@torch.no_grad()
def attention_scores(model: nn.Module, images: Float[Tensor, "batch channel height width"]) -> int:
    """Attention scores of one forward pass over the images, in evaluation mode.

    Counted are torch's fused attention and local group attention. The latter has poses · heads · pixels · window²
    scores, and behind the lifting the poses of the query and of the key too; keys beyond the border count, as they do
    in the published counts.
    """
    was_training = model.training
    model.eval()
    with ExitStack() as stack:
        fused = stack.enter_context(_FusedScores())
        local: list[int] = []
        for module in model.modules():
            if isinstance(module, LocalGroupSelfAttention):
                handle = module.register_forward_hook(lambda layer, args, out: local.append(_local(layer, args[0])))
                stack.callback(handle.remove)
        model(images)
    model.train(was_training)
    return fused.count + sum(local)


def _local(layer: LocalGroupSelfAttention, x: Tensor) -> int:
    order = layer.group.order
    poses = order if x.ndim == 4 else order ** (2 if layer.diagonal else 3)
    window = layer.window**2 if layer.mask is None else int(layer.mask.sum())
    return len(x) * layer.heads * poses * x.shape[-2] * x.shape[-1] * window


class _FusedScores(TorchFunctionMode):
    """Adds up the scores of every call of torch's fused attention."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self.count += named["query"].shape[:-1].numel() * named["key"].shape[-2]
        return func(*args, **kwargs)
