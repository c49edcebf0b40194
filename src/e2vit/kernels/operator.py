"""Compiled kernels as torch operators, so that compiled and exported graphs hold each as one node.

A kernel comes as two functions: ``forward(q, k, value, position, element, table, mask)`` returns the output and one
tensor that it keeps for ``backward(dout, kept, q, k, …, mask)``, which returns the gradients of the first five.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import custom_op

from e2vit.kernels import reference

INPUTS = "Tensor q, Tensor k, Tensor value, Tensor position, Tensor element, Tensor table, Tensor? mask"
GRADIENTS = ", ".join(["Tensor"] * 5)


def operator(name: str, forward: Callable, backward: Callable, keeps: bool) -> Callable[..., Tensor]:
    """Register e2vit::name and e2vit::name_backward; return a function of the inputs that gives the output.

    keeps: whether the kept tensor is (batch, head, v, g, height, width), or empty. A second derivative is that of the
    reference, which the backward takes whenever its own result is to be differentiated.
    """
    options = {"mutates_args": (), "device_types": None}
    run = custom_op(f"e2vit::{name}", forward, schema=f"({INPUTS}) -> (Tensor, Tensor)", **options)
    schema = f"(Tensor dout, Tensor kept, {INPUTS}) -> ({GRADIENTS})"
    gradient = custom_op(f"e2vit::{name}_backward", backward, schema=schema, **options)

    @run.register_fake
    def _(q, k, value, position, element, table, mask):
        batch, heads, _, queries, height, width = q.shape
        out = q.new_empty(batch, heads, value.shape[2], len(table), height, width)
        return out, q.new_empty((batch, heads, len(table), queries, height, width) if keeps else 0)

    @gradient.register_fake
    def _(dout, kept, *inputs):
        return tuple(x.new_empty(x.shape) for x in inputs[:5])

    def save(ctx, inputs, output):
        ctx.save_for_backward(output[1], *inputs)
        ctx.mark_non_differentiable(output[1])

    def differentiate(ctx, dout, _):
        kept, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = [i for i, x in enumerate(inputs[:5]) if x.requires_grad]
            found = torch.autograd.grad(reference.attend(*inputs), [inputs[i] for i in wanted], dout, create_graph=True)
            gradients = dict(zip(wanted, found, strict=True))
            return *(gradients.get(i) for i in range(5)), None, None
        return *gradient(dout.contiguous(), kept, *inputs), None, None

    run.register_autograd(differentiate, setup_context=save)
    return lambda *inputs: run(*inputs)[0]
