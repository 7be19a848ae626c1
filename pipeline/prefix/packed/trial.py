"""Whether a backend computes, on this machine, what torch's operators compute on a CPU.

Drivers, cards, compilers and versions of torch differ, and a kernel that is there may refuse, fail
to compile, or be wrong. So each is tried once for a kind of states, forward and backward.
"""

from collections.abc import Callable

import torch

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor, Terms
from pipeline.prefix.packed.operators import attention_by_operators
from pipeline.prefix.packed.sight import Sight

Attention = Callable[[PackedAttentionCall], Tensor]

# Lengths within and beyond a block of a kernel, for two query heads to a head of keys.
_LENGTHS, _HEADS, _KV_HEADS = [3, 150, 1], 4, 2
# One that may be copied for each example, and one that is too long for that.
_PREFIXES = 20, 80
# What a long example leaves behind: the prefix, and its own beginning.
_WINDOW, _SOFTCAP = 40, 1.5
# Of the norm: some roundings of the dtype, a tenth of what one lost key would make.
_TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
_TOLERANCE = 1e-4


def why_not_tried(attention: Attention, kind: StateKind) -> str | None:
    """Why an attention does not serve states of one dtype and head size; None where it does.

    Tried with all that the kind names beyond scaled, causal softmax attention.
    """
    return next(filter(None, (_why_not(attention, kind, p) for p in _PREFIXES)), None)


def _why_not(attention: Attention, kind: StateKind, p: int) -> str | None:
    (dtype,), (dim,) = kind.dtypes, kind.head_dims
    draw = torch.Generator().manual_seed(0)
    tokens = sum(_LENGTHS)
    shapes = [(_HEADS, tokens), *[(_KV_HEADS, tokens)] * 2, *[(_KV_HEADS, p)] * 2]
    states = [torch.randn(*shape, dim, generator=draw).to(dtype) for shape in shapes]
    # Whatever the caller is in: this one needs gradients.
    with torch.inference_mode(False), torch.enable_grad():
        try:
            found = _outcome(attention, [t.clone().to(kind.device) for t in states], kind.beyond)
        except Exception as error:  # drivers and compilers raise whatever they like
            return said(error)
        expected = _outcome(
            attention_by_operators, [t.clone().float() for t in states], kind.beyond
        )
        for one, other in zip(found, expected, strict=True):
            share = float((one.cpu().float() - other).norm() / other.norm())
            if not share < _TOLERANCES.get(dtype, _TOLERANCE):
                return f"it is off by {share:.1e} of what torch's operators compute"
    return None


def said(error: Exception) -> str:
    """What an error of a kernel says, as a clause of one line."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"it raised {type(error).__name__}: {line[:200]}"


def _outcome(attention: Attention, states: list[Tensor], beyond: frozenset[str]) -> list[Tensor]:
    """The output and all gradients, for a sum whose weights depend on the place."""
    # A prefix is float32, as in training.
    leaves = [t.requires_grad_() for t in (*states[:3], *(t.float() for t in states[3:]))]
    query, key, value, prefix_key, prefix_value = leaves
    scaling, p = query.shape[-1] ** -0.5, prefix_key.shape[1]
    terms = Terms(
        Sight(window=_WINDOW, start=p, places=range(p)) if "windows" in beyond else None,
        _SOFTCAP if "softcaps" in beyond else None,
        torch.linspace(-1, 1, _HEADS, device=query.device) if "sinks" in beyond else None,
    )
    out = attention(
        PackedAttentionCall(query, key, value, prefix_key, prefix_value, _LENGTHS, scaling, terms)
    )
    weights = torch.linspace(-1, 1, out.numel()).view_as(out).to(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]
