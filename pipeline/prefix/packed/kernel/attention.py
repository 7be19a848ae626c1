"""The CPU kernel's attention as a function that autograd knows the gradient of."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor
from pipeline.prefix.packed.kernel.library import attention_backward, attention_forward


def attention_by_kernel(call: PackedAttentionCall) -> Tensor:
    """Shared-prefix attention in one call of the kernel."""
    prefix_key, prefix_value = call.prefix_key, call.prefix_value
    if prefix_key is None or prefix_value is None:
        prefix_key = prefix_value = call.key[:, :0].detach()
    states = call.query, call.key, call.value, prefix_key.float(), prefix_value.float()
    result: Tensor = _KernelAttention.apply(*states, call.lengths, call.scaling)
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
        lengths: list[int],
        scaling: float,
    ) -> Tensor:
        states = query, key, value, prefix_key, prefix_value
        out, lse = attention_forward(PackedAttentionCall(*states, lengths, scaling))
        ctx.save_for_backward(*states, out, lse)
        ctx.lengths, ctx.scaling = lengths, scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        states = query, key, value, prefix_key, prefix_value
        call = PackedAttentionCall(*states, ctx.lengths, ctx.scaling)
        for_input = any(ctx.needs_input_grad[:3])
        return *attention_backward(grads[0], call, out, lse, for_input), None, None
