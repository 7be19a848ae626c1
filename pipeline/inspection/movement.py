"""How far training moved keys, values and states from where they started.

Diaz (2025, arXiv 2508.17032) finds that in a trained cache keys stay near their start, as routers,
and that values carry what was learned; so keys and values are measured apart. A rotary embedding
turns a key and its start alike, so that distances are those of the keys before it.
"""

from collections.abc import Iterator
from itertools import chain

import pandas as pd
import torch

from pipeline.prefix import KVPrefix

ALONE = "decoder"
"""What the tables call the one part of a model that is a decoder alone."""


def movement(start: KVPrefix, trained: KVPrefix) -> pd.DataFrame:
    """The way of every layer's keys and values, all heads and virtual tokens together, and states.

    Columns: part, layer, tensor (key, value, or a state's kind: conv, recurrent), norm (L2, of the
    start), distance (L2), relative (distance by norm) and cosine; the last two are empty where the
    start is zero.
    """
    return pd.DataFrame(
        {**place, **_way(first.flatten()[None], last.flatten()[None])[0]}
        for place, first, last in chain(_pairs(start, trained), _states(start, trained))
    )


def movement_of_tokens(start: KVPrefix, trained: KVPrefix) -> pd.DataFrame:
    """The same of each virtual token's keys and values: column `token` beside, heads together."""
    return pd.DataFrame(
        {**place, "token": token, **way}
        for place, first, last in _pairs(start, trained)
        for token, way in enumerate(
            _way(first.transpose(0, 1).flatten(1), last.transpose(0, 1).flatten(1))
        )
    )


Pair = tuple[dict[str, str | int], torch.Tensor, torch.Tensor]


def _pairs(start: KVPrefix, trained: KVPrefix) -> Iterator[Pair]:
    """Of every place the start's and the trained keys, then values, float64 on the CPU."""
    for at, (part, layer) in enumerate(trained.places):
        for tensor in ("key", "value"):
            first, last = (getattr(kv, f"{tensor}s")[at].cpu().double() for kv in (start, trained))
            yield {"part": part or ALONE, "layer": layer, "tensor": tensor}, first, last


def _states(start: KVPrefix, trained: KVPrefix) -> Iterator[Pair]:
    """The same of every state."""
    for name, state in trained.states.items():
        layer, _, kind = name.partition(".")
        first, last = (tensor.cpu().double() for tensor in (start.states[name], state))
        yield {"part": ALONE, "layer": int(layer), "tensor": kind}, first, last


def _way(first: torch.Tensor, last: torch.Tensor) -> list[dict[str, float | None]]:
    """For each row of two tensors `[n, numbers]` the distance, relative distance and cosine."""
    found: list[dict[str, float | None]] = []
    for before, after in zip(first, last, strict=True):
        distance, norm, other = (float(t.norm()) for t in (after - before, before, after))
        found.append(
            {
                "norm": norm,
                "distance": distance,
                "relative": distance / norm if norm else None,
                "cosine": float(before @ after) / (norm * other) if norm and other else None,
            }
        )
    return found
