"""A batch padded on the left, in a transformers cache: for every architecture and device.

Rows that padding before them would change (`PrefixModel.padding_group`) come in one length.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.data.batching import Example, pad_rows
from pipeline.evaluation.decoding import Pick, decode, likeliest
from pipeline.prefix import PrefixModel


class PaddedBatch:
    """A batch whose inputs, padded on the left, are in the cache."""

    def __init__(self, model: PrefixModel, examples: Sequence[Example], _: int) -> None:
        self.model = model
        self.targets = [list(row["input_ids"][row["target_start"] :]) for row in examples]
        inputs = [list(row["input_ids"][: row["target_start"]]) for row in examples]
        # Token 0 pads: it is masked wherever it stands.
        ids = pad_rows(inputs, 0, model.device, left=True)
        self.mask = pad_rows([[1] * len(row) for row in inputs], 0, model.device, left=True)
        # It knows of no sliding window: one's layers could not be cut back, and the mask hides what
        # has left the window anyway.
        self.cache: Any = model.new_cache()
        with _contiguous_head(model):
            self.last = self._forward(ids, self.mask, keep=1)

    def target_losses(self) -> list[float]:
        """The summed cross-entropy of each row's target."""
        logits, padded = self._scored
        padded = padded.to(logits.device)
        losses = F.cross_entropy(logits.float().flatten(0, 1), padded.flatten(), reduction="none")
        per_token = losses.view_as(padded).tolist()
        return [
            sum(row[: len(target)]) for row, target in zip(per_token, self.targets, strict=True)
        ]

    def target_logits(self) -> torch.Tensor:
        """What predicts the targets, `[targets, vocabulary]`, one row after the other."""
        logits, _ = self._scored
        counts = torch.tensor([len(target) for target in self.targets])
        is_target = torch.arange(logits.shape[1]) < counts[:, None]
        return logits[is_target.to(logits.device)]

    @cached_property
    def _scored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What predicts each row's target, `[rows, longest, vocabulary]`, and the targets, padded.

        The cache is as before afterwards.
        """
        longest = max(map(len, self.targets))
        padded = pad_rows(self.targets, 0, self.model.device)
        logits = self.last
        if longest > 1:
            seen = torch.ones_like(padded[:, :-1])
            mask = torch.cat([self.mask, seen], dim=1)
            # What a state has taken in cannot be cut off again.
            before = copy.deepcopy(self.cache) if self.model.keeps_states else None
            logits = torch.cat([self.last, self._forward(padded[:, :-1], mask)], dim=1)
            if before is None:
                self.cache.crop(1 - longest)
            else:
                self.cache = before
        return logits, padded

    def continuations(self, most: int, ends: set[int], pick: Pick = likeliest) -> list[list[int]]:
        """Continuations; rows that have ended leave the batch. Uses up the cache."""
        mask = self.mask
        # They are as large as all that is generated.
        vars(self).pop("_scored", None)

        def step(going: list[int], tokens: torch.Tensor) -> torch.Tensor:
            nonlocal mask
            if len(going) < len(mask):
                index = torch.tensor(going, device=mask.device)
                # Which transformers' own layers with a state take by another name alone.
                if self.model.keeps_states:
                    self.cache.reorder_cache(index)
                else:
                    self.cache.batch_select_indices(index)
                mask = mask[index]
            mask = torch.cat([mask, mask.new_ones(len(going), 1)], dim=1)
            return self._forward(tokens[:, None], mask)[:, -1]

        return decode(self.last[:, -1], step, most, ends, pick)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, keep: int | None = None
    ) -> torch.Tensor:
        """Logits of the new tokens (of the last `keep`), which join the cache."""
        parameters = inspect.signature(self.model.frozen_model.forward).parameters
        extra: dict[str, Any] = {}
        if keep is not None and "logits_to_keep" in parameters:
            extra["logits_to_keep"] = keep
        if "position_ids" in parameters:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            extra["position_ids"] = positions[:, -ids.shape[1] :]
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            **{self.model.cache_name: self.cache},
            **extra,
        ).logits
        return logits if keep is None else logits[:, -keep:]


@contextmanager
def _contiguous_head(model: PrefixModel) -> Iterator[None]:
    """Give the output embedding contiguous states.

    transformers cuts the last position out of every row; torch multiplies such a cut by a copy of
    the output embedding for each row, which costs more than the rest of a prefill.
    """
    head = model.frozen_model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, states: (states[0].contiguous(),))
    try:
        yield
    finally:
        handle.remove()
