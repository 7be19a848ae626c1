"""The cross-entropy of the target tokens, with logits at no other position."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Self

import torch

from pipeline.data.batching import IGNORED, Example, pack, pad, parts_of_like_length
from pipeline.loss.cross_entropy import summed_cross_entropy
from pipeline.prefix import PrefixModel
from pipeline.prefix.architecture.devices import index_of_states


class TargetLoss:
    """The loss of a model's targets, of each example by the fastest way that serves it.

    Which way that is depends on the architecture and on the example's own length, never on what it
    shares a batch with.
    """

    def __init__(self, model: PrefixModel) -> None:
        self.model = model

    def of_model(self, model: PrefixModel) -> Self:
        """The same loss of another prefix on the same frozen model, which is tried no more."""
        other = copy(self)
        other.model = model
        return other

    def packs(self, tokens: int) -> bool:
        """Whether packed rows serve an example of so many tokens."""
        return self.model.why_not_packed(tokens=tokens) is None

    def parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """A batch in the parts that one call takes: whole where packed, else of like length."""
        packed, padded = self._ways(examples)
        return packed + [part for some in padded for part in parts_of_like_length(some)]

    def __call__(self, examples: Sequence[Example], weight: float = 1.0) -> torch.Tensor:
        """The examples' summed cross-entropy (nats, float32 scalar) of target tokens, weighted."""
        losses = [
            self.of(predicted, targets, part, weight)
            for part, predicted, targets in self.predictions(examples)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def predictions(
        self, examples: Sequence[Example]
    ) -> Iterator[tuple[list[Example], torch.Tensor, torch.Tensor]]:
        """Examples in the parts that one call takes, with what predicts each of their targets.

        That is logits `[targets, vocabulary]`, or what the model gives within `predicting`; the
        targets, int64, are those of one example after the other.
        """
        packed, padded = self._ways(examples)
        for way, parts in ((self._packed, packed), (self._padded, padded)):
            for part in parts:
                yield part, *way(part)

    def predicting(self) -> AbstractContextManager[None]:
        """The model is called within it, and gives what `of` takes."""
        return nullcontext()

    def of(
        self,
        predicted: torch.Tensor,
        targets: torch.Tensor,
        examples: Sequence[Example],
        weight: float = 1.0,
    ) -> torch.Tensor:
        """The loss of examples by what predicts their targets (see `predictions`)."""
        return summed_cross_entropy(predicted, targets, weight)

    def _ways(self, examples: Sequence[Example]) -> tuple[list[list[Example]], list[list[Example]]]:
        """What is packed, a row each, and what is padded together."""
        # The longest first: what serves it is tried once.
        lengths = sorted({len(example["input_ids"]) for example in examples}, reverse=True)
        packs = {length: self.packs(length) for length in lengths}
        packed: list[Example] = []
        padded: dict[int, list[Example]] = {}
        for example in examples:
            if packs[len(example["input_ids"])]:
                packed.append(example)
            else:
                group = self.model.padding_group(len(example["input_ids"]))
                padded.setdefault(group, []).append(example)
        return _rows(packed, self.model.most_packed), list(padded.values())

    def _packed(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        row = pack(examples, self.model.device)
        # The logits that predict a token are at the position before it.
        predicting = row.targets - 1
        with self.predicting():
            logits = self.model.packed_logits(row.input_ids, row.lengths, predicting)
        return logits, row.input_ids[row.targets]

    def _padded(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        # The padding token is masked wherever it stands.
        batch = pad(examples, 0, self.model.device, left=self.model.padding != "right")
        is_target = batch.labels != IGNORED
        # The logits before the columns with a target are enough: padded on the left, where targets
        # end together, the last of them.
        columns = is_target.any(dim=0).nonzero()[:, 0]
        kept = index_of_states(self.model.frozen_model, columns - 1)
        parameters = inspect.signature(self.model.frozen_model.forward).parameters
        # Indices rather than a number: a slice of the hidden states is not contiguous, and torch
        # would multiply it by a copy of the output embedding for every row.
        extra = {"logits_to_keep": kept} if "logits_to_keep" in parameters else {}
        if "position_ids" in parameters:
            extra["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        with self.predicting():
            logits = self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                **extra,
            ).logits
        if "logits_to_keep" not in extra:
            logits = logits[:, kept]
        chosen = is_target[:, columns]
        return logits[chosen.to(logits.device)], batch.labels[:, columns][chosen]


def _rows(examples: list[Example], most: int | None) -> list[list[Example]]:
    """Examples in rows of at most so many tokens."""
    rows: list[list[Example]] = []
    used = 0
    for example in examples:
        tokens = len(example["input_ids"])
        if rows and (most is None or used + tokens <= most):
            rows[-1].append(example)
            used += tokens
        else:
            rows.append([example])
            used = tokens
    return rows
