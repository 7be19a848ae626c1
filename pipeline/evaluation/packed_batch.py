"""A batch packed in one row, without padding and without a copy of the prefix: the fast path."""

from collections.abc import Sequence

import torch

from pipeline.data.batching import Example, pack
from pipeline.loss.cross_entropy import token_losses
from pipeline.prefix import PrefixModel
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.decoding import greedy
from pipeline.prefix.packed.kernel.library import serves
from pipeline.prefix.packed.logits import packed_logits


class PackedBatch:
    """Examples whose targets are scored in the pass that prefills their inputs."""

    @staticmethod
    def serves(model: PrefixModel) -> bool:
        """Whether this model's architecture, device and shapes are on the fast path."""
        if not model.packable:
            return False
        dims = {shape[-1] for pair in model.kv_shapes for shape in pair}
        return len(dims) == 1 and serves(model.device, model.frozen_model.dtype, dims.pop())

    def __init__(
        self, model: PrefixModel, examples: Sequence[Example], max_new_tokens: int
    ) -> None:
        self._model, self._prefix = model.frozen_model, model.kv_prefix()
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
