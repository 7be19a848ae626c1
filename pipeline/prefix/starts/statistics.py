"""Noise with the statistics of the keys and values that a frozen model computes itself.

All that a model caches of one token, over all layers, is one vector x. Of n tokens of texts, with
numbers g drawn from N(0, 1),

    mean + scale * (g_1 (x_1 - mean) + ... + g_n (x_n - mean)) / sqrt(n - 1)

is normal, with the mean of the n vectors and, times scale squared, their covariance: of each
dimension, of the dimensions of a head, and across heads and layers. A covariance of such a size is
never computed, and the vectors pass by one text at a time.
"""

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.key_positions import key_positions
from pipeline.prefix.architecture.parts import is_decoder_only
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.files.provenance import provenance
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.flat import flatten, unflattened
from pipeline.prefix.starts.from_text import kv_prefix_from_tokens
from pipeline.prefix.states import has_tokens, index_of


@torch.no_grad()
def kv_prefix_from_statistics(
    frozen_model: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    num_virtual_tokens: int,
    generator: torch.Generator,
    scale: float = 1.0,
) -> KVPrefix:
    """A prefix drawn from the normal distribution of what a model caches of texts' tokens.

    The first virtual token is drawn from the first tokens of the texts, the others from all others:
    a model treats what it reads first like nothing else (an attention sink; Xiao et al. 2023, arXiv
    2309.17453), and has for a token that begins every text (BOS) one entry without variance. Keys
    are rotated to position 0, drawn there, and rotated to the positions of the virtual tokens.
    Where a position cannot be taken out of keys (learned positions, and models with an encoder)
    they are drawn with the positions that the tokens had. States are drawn from those that the
    whole texts leave; ids of tokens that a layer remembers are 0, as in `random_kv_prefix`.

    Args:
        frozen_model: any model that `kv_prefix_from_tokens` serves.
        texts: token ids of each text; of a model with an encoder its decoder is given them too.
        num_virtual_tokens: p.
        generator: of the numbers g, on the CPU.
        scale: of the distance from the mean; 0 gives the mean itself.

    Raises:
        PrefixError: for no text, for texts of a single token where p is above 1, for a negative
            scale, and for a model that cannot be asked how it rotates keys.
    """
    p = num_virtual_tokens
    _refuse(texts, p, scale)
    turning = None
    if is_decoder_only(frozen_model):
        turning = key_positions(frozen_model, max(p, *map(len, texts)))
    first, others = _Normal(1, generator), _Normal(p - 1, generator)
    states: dict[str, _Normal] = {}
    for text in texts:
        kv = kv_prefix_from_tokens(frozen_model, list(text))
        if turning is not None:
            kv = turning.moved(kv, range(len(kv)), [0] * len(kv))
        rows = _rows(kv)
        first.add(rows[:1])
        others.add(rows[1:])
        for name, state in kv.states.items():
            if not has_tokens(name) and state.is_floating_point():
                states.setdefault(name, _Normal(1, generator)).add(state.flatten()[None])
    drawn = torch.cat([first.drawn(scale), *([others.drawn(scale)] if p > 1 else [])])
    drawn_states = {
        name: states[name].drawn(scale).view_as(state) if name in states else state * 0
        for name, state in kv.states.items()
        if not has_tokens(name)
    }
    prefix = _prefix(drawn, kv, drawn_states)
    if turning is not None:
        prefix = turning.moved(prefix, [0] * p, range(p))
    prefix.metadata.update(provenance(frozen_model))
    return prefix


class _Normal:
    """The normal distribution of rows, `draws` times drawn from while the rows pass by."""

    def __init__(self, draws: int, generator: torch.Generator) -> None:
        self._draws, self._generator = draws, generator
        self._count = 0
        self._sum: torch.Tensor | float = 0.0
        self._weights = torch.zeros(draws, 1, dtype=torch.float64)
        self._weighted: torch.Tensor | float = 0.0

    def add(self, rows: torch.Tensor) -> None:
        """Take rows `[n, width]` in."""
        # On the CPU, in float64, which Apple's MPS has not.
        rows = rows.cpu().double()
        weights = torch.randn(
            self._draws, len(rows), generator=self._generator, dtype=torch.float64
        )
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._weights = self._weights + weights.sum(1, keepdim=True)
        self._weighted = self._weighted + weights @ rows

    def drawn(self, scale: float) -> torch.Tensor:
        """The draws, float32 `[draws, width]`."""
        mean = self._sum / self._count
        deviation = (self._weighted - self._weights * mean) / math.sqrt(max(1, self._count - 1))
        return (mean + scale * deviation).float()


def _refuse(texts: Sequence[Sequence[int]], p: int, scale: float) -> None:
    if p < 1:
        raise PrefixError(f"num_virtual_tokens is {p}; a prefix has at least 1")
    if scale < 0:
        raise PrefixError(f"scale is {scale}; it must not be below 0")
    if not texts or not all(map(len, texts)):
        raise PrefixError("statistics are taken of texts, each of a token or more; give some")
    if p > 1 and max(map(len, texts)) < 2:
        raise PrefixError(
            "no text has a second token, from which virtual tokens after the first are drawn; give "
            "longer texts"
        )


def _rows(kv: KVPrefix) -> torch.Tensor:
    """All that is cached of each token, `[p, width]`; of states alone `[p, 0]`."""
    index = [keys.flatten(1).float() for keys in index_of(kv.states).values()]
    own = flatten(kv) if kv.keys else torch.empty(len(kv), 0)
    return torch.cat([own, *index], 1)


def _prefix(rows: torch.Tensor, like: KVPrefix, states: dict[str, torch.Tensor]) -> KVPrefix:
    """The inverse of `_rows`, with other states."""
    index = index_of(like.states)
    widths = [keys[0].numel() for keys in index.values()]
    own, *parts = rows.split([rows.shape[1] - sum(widths), *widths], 1)
    keys, values = unflattened(own, like.shapes)
    states = states | {
        name: part.unflatten(1, of_one.shape[1:])
        for (name, of_one), part in zip(index.items(), parts, strict=True)
    }
    return KVPrefix(
        keys, values, layers=like.layers, parts=like.parts, states=states, length=len(rows)
    )
