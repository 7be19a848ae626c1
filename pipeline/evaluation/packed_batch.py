"""A batch packed in one row, without padding and without a copy of the prefix: the fast path."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.data.batching import Example, pack
from pipeline.loss.cross_entropy import token_losses
from pipeline.prefix import PrefixModel
from pipeline.prefix.architecture.parts import is_decoder_only
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.decoding import greedy
from pipeline.prefix.packed.kernel.library import serves
from pipeline.prefix.packed.logits import is_packable, packed_logits


class PackedBatch:
    """Examples whose targets are scored in the pass that prefills their inputs."""

    @staticmethod
    def serves(model: Any) -> bool:
        """Whether this model's architecture, device and shapes are on the fast path."""
        prefixed = isinstance(model, PrefixModel)
        # Decoders alone, without heads: the others' prefixes have more parts than a packed row.
        if (prefixed and not model.packable) or not is_decoder_only(_frozen(model)):
            return False
        dims = {shape[-1] for pair in kv_shapes(_frozen(model)) for shape in pair}
        return (
            len(dims) == 1
            and serves(model.device, _frozen(model).dtype, dims.pop())
            and (prefixed or is_packable(model, None))
        )

    def __init__(self, model: Any, examples: Sequence[Example], max_new_tokens: int) -> None:
        self._model = _frozen(model)
        self._prefix = model.kv_prefix() if isinstance(model, PrefixModel) else None
        self._counts = [len(row["input_ids"]) - row["target_start"] for row in examples]
        self._cache = PackedCache([row["target_start"] for row in examples], max_new_tokens)
        packed = pack(examples, self._model.device)
        self._targets = packed.input_ids[packed.targets]
        # The logits that predict a token are at the position before it.
        self._logits = packed_logits(
            self._model,
            packed.input_ids,
            packed.lengths,
            self._prefix,
            packed.targets - 1,
            self._cache,
        )

    def target_losses(self) -> list[float]:
        """The summed cross-entropy of each example's target."""
        losses = token_losses(self._logits, self._targets).double()
        return [float(part.sum()) for part in losses.split(self._counts)]

    def continuations(self, most: int, ends: set[int]) -> list[list[int]]:
        """Greedy continuations; rows that have ended leave the batch. Uses up the cache."""
        texts: list[list[int]] = [[] for _ in self._counts]
        firsts = torch.tensor([0, *self._counts[:-1]]).cumsum(0)
        first = self._logits[firsts]
        for row, token in greedy(self._model, self._prefix, self._cache, first, most, ends):
            texts[row].append(token)
        return texts


def _frozen(model: Any) -> Any:
    return getattr(model, "frozen_model", model)
