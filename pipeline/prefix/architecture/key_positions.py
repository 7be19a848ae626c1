"""How the keys that a model caches depend on their positions: measured, not looked up.

- rotary embedding: a key is rotated by its position. The keys of a token that stands alone depend
  on its position through the rotation only, so that a forward pass over single tokens at every
  position shows each layer's angles, whatever the base, scaling, pairing or share of dimensions
  rotated;
- ALiBi and other biases by the place of a key, and layers without positions: a key carries none;
- learned positions: the position was added to the token before the first layer and is part of what
  every key and value say. It cannot be taken out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating, takes
from pipeline.prefix.architecture.shapes import cache_argument_of
from pipeline.prefix.caches import attends, beside_keys, empty_cache
from pipeline.prefix.errors import PrefixError, first_line
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import INDEX_KEYS, index_of, state_name

_TOLERANCE = 1e-3
# Each has logits over the vocabulary, which not every model leaves out.
_ROWS_AT_ONCE = 256
# Of one token repeated, whose cached first layer shows whether a model counts for itself.
_REPEATED = 4

_Cached = tuple[str, int | str]
"""What is cached: ("keys", layer), ("values", layer) or ("index", name of a state)."""


@dataclass(frozen=True)
class KeyPositions:
    """How what a model caches turns with its position, up to some position.

    Attributes:
        angles: for each cached tensor complex128 `[positions, pairs]`, the first head's numbers of
            a token alone; `[positions, 0]` where a position changes nothing.
        pairs: for each the two dimensions `[pairs, 2]` that turn together.
    """

    angles: Mapping[_Cached, torch.Tensor]
    pairs: Mapping[_Cached, torch.Tensor]

    @property
    def turns(self) -> bool:
        """Whether a position changes anything of what is cached."""
        return any(len(pairs) for pairs in self.pairs.values())

    def moved(self, kv: KVPrefix, old: Sequence[int], new: Sequence[int]) -> KVPrefix:
        """A prefix whose tokens stood at positions `old` `[p]`, at `new` `[p]`; with gradients."""
        from_, to = torch.tensor(old), torch.tensor(new)

        def turned(tensor: torch.Tensor, of: _Cached) -> torch.Tensor:
            return _rotate(tensor, self.angles[of], from_, to, self.pairs[of])

        layers = [layer for _, layer in kv.places]
        # Values too: multi-head latent attention caches its rotated part in their place.
        keys, values = (
            tuple(turned(t, (kind, layer)) for layer, t in zip(layers, tensors, strict=True))
            for kind, tensors in (("keys", kv.keys), ("values", kv.values))
        )
        index = {
            name: turned(state.movedim(0, -2), ("index", name)).movedim(-2, 0)
            for name, state in index_of(kv.states).items()
        }
        return replace(kv, keys=keys, values=values, states={**kv.states, **index})


@torch.no_grad()
def key_positions(model: PreTrainedModel, positions: int) -> KeyPositions | None:
    """How a model's cached keys turn, up to `positions`; None where a position is part of them.

    Raises PrefixError for a model that cannot be asked how it rotates.
    """
    first, second = (_alone(model, token, positions) for token in _two_tokens(model))
    pairs: dict[_Cached, torch.Tensor] = {}
    for of, measured in first.items():
        pairing = _pairing(measured, second[of])
        if pairing is None:
            return None
        pairs[of] = pairing
    return KeyPositions({of: _complex(first[of], pairs[of]) for of in first}, pairs)


@torch.no_grad()
def counts_for_itself(model: PreTrainedModel) -> bool:
    """Whether a model that turns no key tells a token's places apart before its first attention.

    It then counts positions in a way of its own, and has them in all that it caches. What it
    caches first of one token repeated would otherwise be the same at every place.
    """
    cache = empty_cache(model.config)
    ids = torch.full((1, _REPEATED), _two_tokens(model)[0], device=input_device(model))
    with evaluating(model):
        model(input_ids=ids, use_cache=True, **{cache_argument_of(model): cache})
    if not attends(cache.layers[0]):
        return True
    cached = (cache.layers[0].keys, cache.layers[0].values)
    return not all(torch.allclose(t, t[:, :, :1].expand_as(t), atol=1e-5) for t in cached)


def _two_tokens(model: PreTrainedModel) -> tuple[int, int]:
    half = model.config.get_text_config().vocab_size // 2
    return half, half + 1


def _alone(model: PreTrainedModel, token: int, positions: int) -> dict[_Cached, torch.Tensor]:
    """What is cached of a token alone at each position, `[positions, num_kv_heads, head_dim]` each.

    As float32 whatever the weights. Where a model takes no positions, all are the same.
    """
    parts = [_alone_at(model, token, part) for part in torch.arange(positions).split(_ROWS_AT_ONCE)]
    return {of: torch.cat([part[of] for part in parts]) for of in parts[0]}


def _alone_at(
    model: PreTrainedModel, token: int, places: torch.Tensor
) -> dict[_Cached, torch.Tensor]:
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
    found: dict[_Cached, torch.Tensor] = {}
    for number, layer in enumerate(cache.layers):
        if attends(layer):
            found["keys", number] = layer.keys[:, :, 0]
            found["values", number] = layer.values[:, :, 0]
        for (kind, at), keys in beside_keys(layer).items():
            if kind in INDEX_KEYS:
                flat = keys[:, 0].reshape(len(places), -1, keys.shape[-1])
                found["index", state_name(number, kind, at)] = flat
    return {of: tensor.float().cpu() for of, tensor in found.items()}


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
                moved = _rotate(start, _complex(keys, pair), old, new, pair).transpose(0, 1)
                if float((moved - others).abs().max() / scale) < _TOLERANCE * 10:
                    return pair
    return None


def _complex(alone: torch.Tensor, pairing: torch.Tensor) -> torch.Tensor:
    """The first head's pairs as complex numbers `[positions, pairs]`."""
    return torch.complex(alone[:, 0, pairing[:, 0]], alone[:, 0, pairing[:, 1]]).to(
        torch.complex128
    )


def _rotate(
    key: torch.Tensor,
    angles: torch.Tensor,
    old: torch.Tensor,
    new: torch.Tensor,
    pairing: torch.Tensor,
) -> torch.Tensor:
    """Keys `[heads, p, head_dim]` rotated from positions `old` to `new`, by measured angles."""
    if not len(pairing):
        return key
    turn = angles[new] / angles[old]
    turn = turn / turn.abs().clamp(min=1e-12)
    # On the CPU, in float64, which Apple's MPS has not.
    own = key.cpu()
    pairs = torch.complex(own[..., pairing[:, 0]].double(), own[..., pairing[:, 1]].double())
    turned = pairs * turn
    result = own.clone()
    result[..., pairing[:, 0]] = turned.real.to(key.dtype)
    result[..., pairing[:, 1]] = turned.imag.to(key.dtype)
    return result.to(key.device)
