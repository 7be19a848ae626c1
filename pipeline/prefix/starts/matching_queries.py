"""The queries by which a compaction is judged: those of examples that read the text before them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from pipeline.prefix.architecture.routing import AttentionCall, reaches_attention, routed
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel


@dataclass(frozen=True)
class ReferenceQueries:
    """A layer's queries, and what each sees beside the text: the tokens of its own example.

    Attributes:
        queries: `[num_kv_heads, n, head_dim]` float32, times the layer's scale: those of all query
            heads that share a key-value head.
        own_mass: `[num_kv_heads, n]` float32, log of the sum of exponentials of the own scores.
        own_output: `[num_kv_heads, n, v_dim]` float32, what attention to these alone gives.
    """

    queries: torch.Tensor
    own_mass: torch.Tensor
    own_output: torch.Tensor


@dataclass
class _Layer:
    """What was seen in one layer so far."""

    parts: list[tuple[torch.Tensor, ...]] = field(default_factory=list)
    queries: int = 0


@torch.no_grad()
def reference_queries(
    model: PrefixModel, kv: KVPrefix, examples: Sequence[Sequence[int]], most: int
) -> list[ReferenceQueries]:
    """Of each layer of a text's cache the queries of examples that have the text before them.

    Args:
        model: holds the whole text's KV cache as its prefix, in all layers or some.
        kv: that prefix.
        examples: token ids of each example.
        most: queries kept of a key-value head, evenly spaced over all.

    Raises:
        PrefixError: for a model whose attention is not softmax over products of queries and cached
            keys alone, or hides a part of the text from an example, and for no example.
    """
    if not examples:
        raise PrefixError("no example whose queries could be matched; give at least one")
    name = type(model.frozen_model).__name__
    if not reaches_attention(model.frozen_model):
        raise PrefixError(
            f"{name} computes its attention itself, out of reach of transformers' "
            "AttentionInterface, so what it gives cannot be matched; choose tokens (most_attended)"
        )
    tokens = sum(map(len, examples))
    attending = list(model.cache_shapes.attention)
    layers = {index: _Layer() for _, index in kv.places}
    at = 0

    def note(call: AttentionCall) -> None:
        nonlocal at
        if at == len(attending):
            raise PrefixError(
                f"{name} attends more often than it caches keys, so they cannot be matched"
            )
        index = attending[at]
        at += 1
        cached = kv.layer(index)
        if cached is None:
            return
        layer = layers[index]
        seen = _seen(call, *cached, name)
        count = seen[0].shape[1]
        stride = -(-tokens * (count // call.query.shape[2]) // most)
        chosen = torch.arange(-layer.queries % stride, count, stride)
        layer.parts.append(tuple(part[:, chosen].cpu() for part in seen))
        layer.queries += count

    with routed(model.frozen_model, note):
        for ids in examples:
            at = 0
            model(input_ids=torch.tensor([list(ids)], device=model.device))
            if at < len(attending):
                raise PrefixError(
                    f"{name} attends in {at} of the {len(attending)} layers with keys within reach "
                    "of transformers' AttentionInterface, so the others cannot be matched"
                )
    return [
        ReferenceQueries(*(torch.cat(part, 1) for part in zip(*layer.parts, strict=True)))
        for layer in layers.values()
    ]


def _seen(
    call: AttentionCall, keys: torch.Tensor, values: torch.Tensor, name: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, own masses and own outputs of a call; its text's keys are `keys` `[kv, T, dim]`."""
    count, tokens = keys.shape[:2]
    key, value = call.key[0].float(), call.value[0].float()
    if key.shape[:2] != (count, tokens + call.query.shape[2]) or not (
        _close(key[:, :tokens], keys, call.key.dtype)
        and _close(value[:, :tokens], values, call.key.dtype)
    ):
        raise PrefixError(
            f"{name} does not attend to the keys and values that it caches, so none can be matched"
        )
    heads, _, dim = call.query.shape[1:]
    scale = call.extra.get("scaling") or dim**-0.5
    query = (call.query[0].float() * scale).unflatten(0, (count, heads // count))
    scores = torch.einsum("kgqd,ktd->kgqt", query, key)
    seen = _visible(call, scores.shape[-1], name)
    if not bool(seen[:, :tokens].all()):
        raise PrefixError(
            f"{name} hides a part of the {tokens} tokens of the text from what comes after them "
            "(a sliding window, or chunks), so what they give cannot be matched; use fewer tokens"
        )
    scores = scores.masked_fill(~seen, float("-inf"))
    output = torch.einsum("kgqt,ktv->kgqv", scores.softmax(-1), value)
    theirs = call.output()[0][0].float().transpose(0, 1).unflatten(0, (count, heads // count))
    if not _close(output, theirs, call.key.dtype):
        raise PrefixError(
            f"the attention of {name} is not the softmax of its queries' products with the cached "
            "keys alone (a sink, a softcap or a bias), so what it gives cannot be matched"
        )
    own = scores[..., tokens:]
    own_output = torch.einsum("kgqt,ktv->kgqv", own.softmax(-1), value[:, tokens:])
    return query.flatten(1, 2), own.logsumexp(-1).flatten(1, 2), own_output.flatten(1, 2)


def _visible(call: AttentionCall, keys: int, name: str) -> torch.Tensor:
    """Which keys each query sees, boolean `[queries, keys]`."""
    queries = call.query.shape[2]
    if call.mask is None:
        if queries > 1:
            raise PrefixError(f"{name} does not say what its queries see, so none can be matched")
        return torch.ones(queries, keys, dtype=torch.bool, device=call.query.device)
    mask = call.mask[0, 0, -queries:, :keys]
    return mask if mask.dtype == torch.bool else mask > -1


def _close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    """To the rounding of a computation in `dtype`."""
    theirs = theirs.to(ours.device)
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    return float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
