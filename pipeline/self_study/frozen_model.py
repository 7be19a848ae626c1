"""Questions and answers by the frozen model, which reads each chunk once."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.data.batching import Example
from pipeline.data.measuring import in_order, over_batches
from pipeline.evaluation.batches import groups
from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.evaluation.padded_batch import PaddedBatch
from pipeline.models.prefixed import prefixed_model
from pipeline.models.room import refuse_without_room
from pipeline.models.tokenizer import end_tokens, without_end
from pipeline.prefix import PrefixModel, kv_prefix_from_tokens
from pipeline.self_study.drawing import Drawing
from pipeline.self_study.prompts import Prompts
from pipeline.self_study.writing import Request, Sampling, Written

_ANY_TOKEN = 0  # stands for the target that batches of measured examples have


class FrozenModelWriter:
    """The keys and values of a chunk are computed once, and stand as a prefix before all requests.

    So a request costs its own tokens alone. Each is continued in a batch with others, within
    `max_tokens` tokens of cache, and drawn by its own seed: what shares its batch can change it by
    the rounding of logits alone.
    """

    def __init__(
        self, frozen_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int
    ) -> None:
        self._frozen_model = frozen_model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._prompts = Prompts(tokenizer)
        self._ends = end_tokens(frozen_model, tokenizer) | {*self._prompts.end_of_turn}
        self._read: tuple[str, PrefixModel] | None = None

    def write(self, context: str, requests: Sequence[Request], sampling: Sampling) -> list[Written]:
        """As `Writer` has it. Raises PrefixError for a model that takes no prefix exactly."""
        if not requests:
            return []
        model = self._after(context)
        asked = [self._prompts.asked(context, request.ask) for request in requests]
        refuse_without_room(model, max(map(len, asked)), sampling.max_tokens)
        starts = np.array([len(ids) for ids in asked])
        rows: list[Example] = [
            {"input_ids": [*ids, _ANY_TOKEN], "target_start": len(ids), "seed": request.seed}
            for ids, request in zip(asked, requests, strict=True)
        ]
        written: dict[int, Written] = {}
        for group in groups(model, starts, starts + sampling.max_tokens, self._max_tokens):
            kind = PackedBatch if group.is_packed else PaddedBatch
            batches = over_batches(
                partial(self._continued, model, kind, sampling),
                [rows[i] for i in group.chosen],
                group.tokens,
                group.most,
                None,
                group.is_packed,
            )
            written.update(zip(group.chosen, in_order(batches), strict=True))
        return [written[i] for i in range(len(rows))]

    def close(self) -> None:
        """Leave the frozen model without a trace."""
        if self._read is not None:
            self._read[1].detach()
        self._read = None

    def _after(self, context: str) -> PrefixModel:
        """The frozen model after a chunk."""
        if self._read is None or self._read[0] != context:
            self.close()
            kv = kv_prefix_from_tokens(self._frozen_model, self._prompts.chunk(context))
            self._read = context, prefixed_model(self._frozen_model, kv).eval()
        return self._read[1]

    def _continued(
        self,
        model: PrefixModel,
        kind: type[PackedBatch] | type[PaddedBatch],
        sampling: Sampling,
        rows: list[Example],
    ) -> list[Written]:
        batch = kind(model, rows, sampling.max_tokens)
        drawing = Drawing([row["seed"] for row in rows], sampling)
        continued = batch.continuations(sampling.max_tokens, self._ends, drawing)
        texts = self._tokenizer.batch_decode(
            [without_end(ids, self._ends) for ids in continued], skip_special_tokens=True
        )
        return [
            Written(text.strip(), ids[-1] in self._ends)
            for text, ids in zip(texts, continued, strict=True)
        ]
