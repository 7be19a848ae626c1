"""Moving cached keys to other positions, so that tokens chosen from a text stand side by side.

A prefix of p virtual tokens stands at positions 0 to p-1, and the input after it starts at p. A
key taken from further down a text carries its old position. What that means, and what is done:

- rotary embedding: the key is rotated on, from its old position to its new one;
- ALiBi and other biases by the place of a key, and layers without positions: a key carries no
  position, and its place in the prefix is the new one; nothing is to do;
- learned positions: the position was added to the token before the first layer and is part of
  what every key and value say. It cannot be taken out, and they stay as they are.

How a model rotates is measured, not looked up: the keys of a token that stands alone depend on its
position through the rotation only, so that one forward pass over single tokens at every position
shows each layer's angles, whatever the base, scaling, pairing or share of dimensions rotated.
"""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating, takes
from pipeline.prefix.architecture.shapes import cache_argument_of
from pipeline.prefix.caches import attends, beside_keys, empty_cache
from pipeline.prefix.errors import PrefixError, first_line
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import INDEX_KEYS, index_of

_TOLERANCE = 1e-3
# Each has logits over the vocabulary, which not every model leaves out.
_ROWS_AT_ONCE = 256


@torch.no_grad()
def moved_to_front(model: PreTrainedModel, kv: KVPrefix, positions: list[int]) -> KVPrefix:
    """A prefix whose tokens stood at `positions` `[p]`, ascending, moved to 0 to p-1.

    Raises PrefixError for a model that cannot be asked how it rotates.
    """
    return _moved(model, kv, torch.tensor(positions), torch.arange(len(positions)))


@torch.no_grad()
def moved_back(model: PreTrainedModel, kv: KVPrefix, by: int) -> KVPrefix:
    """A prefix all of whose tokens stand `by` positions earlier, before the text's own start too.

    Between it and what comes after it every distance is then what it was to the text, where what
    comes after moves back as well. Raises PrefixError as `moved_to_front` does.
    """
    return _moved(model, kv, torch.full((len(kv),), by), torch.zeros(len(kv), dtype=torch.long))


def _moved(model: PreTrainedModel, kv: KVPrefix, old: torch.Tensor, new: torch.Tensor) -> KVPrefix:
    last = int(torch.maximum(old, new).max()) + 1
    first, second = (_alone(model, token, last) for token in _two_tokens(model))
    moved: list[torch.Tensor] = []
    # Values too: multi-head latent attention caches its rotated part in their place.
    cached = (*kv.keys, *kv.values, *(keys.movedim(0, -2) for keys in index_of(kv.states).values()))
    for tensor, measured, check in zip(cached, first, second, strict=True):
        pairing = _pairing(measured, check)
        if pairing is None:
            return kv
        # On the CPU, in float64, which Apple's MPS has not.
        turned = _rotate(tensor.cpu(), measured, old, new, pairing)
        moved.append(turned.to(tensor.device))
    n = len(kv.keys)
    index = (keys.movedim(-2, 0) for keys in moved[2 * n :])
    return replace(
        kv,
        keys=tuple(moved[:n]),
        values=tuple(moved[n : 2 * n]),
        states=dict(zip(index_of(kv.states), index, strict=True)),
    )


def _two_tokens(model: PreTrainedModel) -> tuple[int, int]:
    half = model.config.get_text_config().vocab_size // 2
    return half, half + 1


def _alone(model: PreTrainedModel, token: int, positions: int) -> list[torch.Tensor]:
    """What is cached of a token alone at each position: all layers' keys, values, index keys.

    Each is `[positions, num_kv_heads, head_dim]`.

    In float32 whatever the weights: angles of distant positions need it. Where a model takes no
    positions, all are the same.
    """
    parts = [_alone_at(model, token, part) for part in torch.arange(positions).split(_ROWS_AT_ONCE)]
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def _alone_at(model: PreTrainedModel, token: int, places: torch.Tensor) -> list[torch.Tensor]:
    cache = empty_cache(model.config)
    places = places.to(input_device(model))
    extra = {"position_ids": places[:, None]} if takes(model, "position_ids") else {}
    ids = torch.full((len(places), 1), token, device=places.device)
    with evaluating(model):
        try:
            model(input_ids=ids, use_cache=True, **{cache_argument_of(model): cache}, **extra)
        except (IndexError, RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise PrefixError(
                f"{type(model).__name__} reads no token alone at another position "
                f"({first_line(error)}), so tokens cannot be moved to the front; start from a text"
            ) from error
    layers = [layer for layer in cache.layers if attends(layer)]
    kept = [layer.keys for layer in layers] + [layer.values for layer in layers]
    index = [
        keys[:, 0].reshape(len(places), -1, keys.shape[-1])
        for layer in cache.layers
        for (kind, _), keys in beside_keys(layer).items()
        if kind in INDEX_KEYS
    ]
    return [tensor.float().cpu() for tensor in (*(t[:, :, 0] for t in kept), *index)]


def _pairing(keys: torch.Tensor, others: torch.Tensor) -> torch.Tensor | None:
    """Which two dimensions `[pairs, 2]` rotate together; None when no pairing explains the keys.

    Tried on one token, checked on another: its key at position 0, rotated, must be its key at
    every position.
    """
    dim = keys.shape[-1]
    if torch.allclose(keys, keys[:1].expand_as(keys), atol=1e-5):
        return torch.empty(0, 2, dtype=torch.long)
    old, new = torch.zeros(len(keys), dtype=torch.long), torch.arange(len(keys))
    scale = others.abs().max()
    start = others[:1].transpose(0, 1).expand(-1, len(keys), -1)
    for size in range(dim - dim % 2, 0, -2):
        for offset in {0, dim - size}:
            half = torch.arange(size // 2) + offset
            for pair in (
                torch.stack([half, half + size // 2], 1),
                torch.arange(size).view(-1, 2) + offset,
            ):
                moved = _rotate(start, keys, old, new, pair).transpose(0, 1)
                if float((moved - others).abs().max() / scale) < _TOLERANCE * 10:
                    return pair
    return None


def _rotate(
    key: torch.Tensor,
    alone: torch.Tensor,
    old: torch.Tensor,
    new: torch.Tensor,
    pairing: torch.Tensor,
) -> torch.Tensor:
    """Keys `[heads, p, head_dim]` rotated from positions `old` to `new`, by measured angles."""
    if not len(pairing):
        return key
    measured = torch.complex(alone[:, 0, pairing[:, 0]], alone[:, 0, pairing[:, 1]]).to(
        torch.complex128
    )
    turn = measured[new] / measured[old]
    turn = turn / turn.abs().clamp(min=1e-12)
    pairs = torch.complex(key[..., pairing[:, 0]].double(), key[..., pairing[:, 1]].double())
    turned = pairs * turn
    result = key.clone()
    result[..., pairing[:, 0]] = turned.real.to(key.dtype)
    result[..., pairing[:, 1]] = turned.imag.to(key.dtype)
    return result
