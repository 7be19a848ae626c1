"""A batch packed in one row, without padding and without a copy of the prefix: the fast way."""

from collections.abc import Sequence

import torch

from pipeline.data.batching import Example, pack
from pipeline.evaluation.decoding import Pick, decode, likeliest
from pipeline.loss.cross_entropy import token_losses
from pipeline.prefix import PrefixModel
from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.kernel.few_tokens.layers import kernel_layers
from pipeline.prefix.packed.logits import packed_logits, packed_step


class PackedBatch:
    """Examples whose targets are scored in the pass that prefills their inputs."""

    def __init__(
        self, model: PrefixModel, examples: Sequence[Example], max_new_tokens: int
    ) -> None:
        self._model = model.frozen_model
        # Once for all steps of decoding.
        self._prefix = on_its_layers(model.kv_prefix(), self._model)
        self._always_visible = model.prefix_always_visible
        self._counts = [len(row["input_ids"]) - row["target_start"] for row in examples]
        self._cache = PackedCache([row["target_start"] for row in examples], max_new_tokens)
        packed = pack(examples, model.device)
        self._targets = packed.input_ids[packed.targets]
        # The logits that predict a token are at the position before it.
        self._logits = packed_logits(
            self._model,
            packed.input_ids,
            packed.lengths,
            self._prefix,
            packed.targets - 1,
            self._cache,
            prefix_always_visible=self._always_visible,
        )

    def target_losses(self) -> list[float]:
        """The summed cross-entropy of each example's target."""
        # Added up on the CPU: Apple's MPS has no float64.
        losses = token_losses(self._logits, self._targets).cpu().double()
        return [float(part.sum()) for part in losses.split(self._counts)]

    def target_logits(self) -> torch.Tensor:
        """What predicts the targets, `[targets, vocabulary]`, one example after the other."""
        return self._logits

    def continuations(self, most: int, ends: set[int], pick: Pick = likeliest) -> list[list[int]]:
        """Continuations; rows that have ended leave the batch. Uses up the cache."""
        firsts = torch.tensor([0, *self._counts[:-1]]).cumsum(0)

        def step(going: list[int], tokens: torch.Tensor) -> torch.Tensor:
            self._cache.rows = [self._cache.rows[i] for i in going]
            logits = packed_step(
                self._model, tokens, self._prefix, self._cache, self._always_visible
            )
            self._cache.advance()
            return logits

        # Once for all tokens.
        with kernel_layers(self._model):
            return decode(self._logits[firsts], step, most, ends, pick)
