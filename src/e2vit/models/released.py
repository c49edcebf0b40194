"""Weights of the public GSA-Nets and GE-ViT code, by name, into our network.

Theirs: queries, keys and values are three convolutions whose output channels run over (feature, head). Ours: one linear
map, over (query | key | value, head, feature). The layers of the network stand in the same order in both.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from e2vit.layers.attention import LocalGroupSelfAttention
from e2vit.layers.position import seen_offsets

RENAMED = [
    (r"^state/", ""),
    (r"^lifting_self_attention\.", "lifting."),
    (r"^lifting_normalization\.layer_norm\.", "lifting_norm."),
    (r"^transformer\.", "layers."),
    (r"\.attention\.0\.layer_norm\.", ".attention_norm."),
    (r"\.attention\.2\.", ".attention."),
    (r"\.attention\.3\.layer_norm\.", ".out_norm."),
    (r"\.row_embedding\.", ".position.row."),
    (r"\.col_embedding\.", ".position.column."),
    (r"\.layer_norm\.", "."),
    (r"\.group_embedding\.weight$", ".element"),
    (r"\.wout\.", ".out."),
]
DERIVED = re.compile(r"(^|[./])(group\._\w+|g_indices)$")  # follows from the group


def load_released(net: Any, state: Mapping[str, Any], tables: str) -> Any:
    """The network with the weights of ``state``. ValueError when they are those of another group or architecture."""
    if tables not in ("state", "own"):
        raise ValueError(f"tables is 'state' or 'own', not {tables!r}")
    theirs = {
        _renamed(name): torch.as_tensor(np.asarray(array)) for name, array in state.items() if not DERIVED.search(name)
    }
    last = f"layers.{len(net.layers)}.weight"  # the class scores are the last of their layers
    ours = {"classify.weight" if name == last else name: x for name, x in theirs.items()}
    for prefix, layer in net.named_modules():
        if isinstance(layer, LocalGroupSelfAttention):
            offsets = _take_attention(prefix, layer, ours)
            if tables == "state":
                layer.offsets = _checked_offsets(prefix, layer, offsets)
    expected = net.state_dict()
    ours |= {name: x for name, x in expected.items() if name.endswith(".offsets")}
    wrong = sorted(set(ours) ^ set(expected)) or [name for name in ours if ours[name].numel() != expected[name].numel()]
    if wrong:
        raise ValueError(f"the state does not fit this network with {net.config.group}: {', '.join(wrong[:3])}")
    net = net.to(ours["classify.weight"].dtype).eval()
    net.load_state_dict({name: x.reshape(expected[name].shape) for name, x in ours.items()})
    return net


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _take_attention(prefix: str, layer: LocalGroupSelfAttention, state: dict[str, Tensor]) -> Tensor:
    """Rewrites the entries of one attention layer in place; returns its offsets (v, offset, 2), x and y."""
    try:
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"{prefix}.{name}.{kind}").flatten(1)
                if kind == "weight"
                else state.pop(f"{prefix}.{name}.{kind}")[:, None]
                for name in ("query", "key", "value")
            ]
            merged = rearrange(torch.stack(parts), "p (d head) c -> (p head d) c", head=layer.heads)
            state[f"{prefix}.qkv.{kind}"] = merged if kind == "weight" else merged[:, 0]
        state[f"{prefix}.out.weight"] = rearrange(
            state[f"{prefix}.out.weight"].flatten(1), "out (d head) -> out (head d)", head=layer.heads
        )
        rows, columns = (state.pop(f"{prefix}.{name}_indices").flatten(1) for name in ("row", "col"))
    except KeyError as missing:
        raise ValueError(f"the state has no {missing.args[0]}, which this network needs") from None
    return torch.stack([columns, -rows], -1)


def _checked_offsets(prefix: str, layer: LocalGroupSelfAttention, offsets: Tensor) -> Tensor:
    """ValueError unless they are, but for rounding, what this group and index see in this window."""
    own = seen_offsets(layer.group, layer.window, layer.window, layer.forward_offsets, torch.float64, offsets.device)
    if own.shape != offsets.shape or (own - offsets).abs().max() > 1e-5:
        raise ValueError(
            f"the offsets of {prefix} in the state are not those of {layer.group} with window "
            f"{layer.window} and this index; pass tables='own' to use these weights with another one"
        )
    return offsets
