"""The CPU kernel's attention as a function that autograd knows the gradient of."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor, Terms
from pipeline.prefix.packed.kernel.library import attention_backward, attention_forward


def attention_by_kernel(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention in one call of the kernel."""
    prefix_key, prefix_value = call.prefix_key, call.prefix_value
    if prefix_key is None or prefix_value is None:
        prefix_key = prefix_value = call.key[:, :0].detach()
    states = call.query, call.key, call.value, prefix_key.float(), prefix_value.float()
    terms = call.terms
    result: Tensor = _KernelAttention.apply(*states, terms.sinks, call.lengths, call.scaling, terms)
    return result


class _KernelAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        sinks: Tensor | None,
        lengths: list[int],
        scaling: float,
        terms: Terms,
    ) -> Tensor:
        states = query, key, value, prefix_key, prefix_value
        out, lse = attention_forward(PackedAttentionCall(*states, lengths, scaling, terms))
        ctx.save_for_backward(*states, sinks, out, lse)
        ctx.lengths, ctx.scaling, ctx.terms = lengths, scaling, terms
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, sinks, out, lse = ctx.saved_tensors
        states = query, key, value, prefix_key, prefix_value
        call = PackedAttentionCall(*states, ctx.lengths, ctx.scaling, ctx.terms)
        for_input = any(ctx.needs_input_grad[:3])
        of_states = attention_backward(grads[0], call, out, lse, for_input)
        of_sinks = _of_sinks(grads[0], sinks, out, lse) if ctx.needs_input_grad[5] else None
        return *of_states, of_sinks, None, None, None


def _of_sinks(grad: Tensor, sinks: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """A sink takes its weight from what all the others come to."""
    weights = (sinks[:, None].float() - lse).exp()
    return -(weights * (grad.float() * out.float()).sum(-1)).sum(-1).to(sinks.dtype)
