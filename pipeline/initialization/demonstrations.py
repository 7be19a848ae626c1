"""`demonstrations`: examples of the training split."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import (
    Corpus,
    TextStart,
    first_tokens,
)
from pipeline.initialization.token_spans import token_spans
from pipeline.schema.section import Count
from pipeline.storage.records import each_of_jsonl


class Demonstrations(TextStart):
    """The KV cache of examples of the training split, rendered one after another."""

    type: Literal["demonstrations"]
    template: str | None = None
    max_examples: Count = 64
    seed: int = 0

    stands_in_context: ClassVar[bool] = True
    shows_examples: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The examples as one text; inputs and targets apart where an encoder reads the inputs."""
        rows = self._rows()
        if context.has_encoder and self.template is None:
            return _read_and_written(context, rows)
        text = context.rendering.demonstrations(rows, self.template)
        is_chat = self.template is None and context.use_chat_template
        tokens, count = context.rendering.tokens(text, is_chat)
        corpus = first_tokens(context, text, tokens, bool(count))
        spans = token_spans(
            text,
            context.rendering.demonstration_starts(rows, self.template),
            lambda part: context.rendering.tokens(part, is_chat)[0],
            context.max_length,
        )
        if spans is None:
            return corpus
        # The rows after the last of the tokens have no span.
        named = [(*span, str(row["id"])) for span, row in zip(spans, rows, strict=False)]
        return replace(corpus, demonstrations=named)

    def templates(self) -> Mapping[str, str]:
        """The template of a row, where it is not the task's own."""
        return {} if self.template is None else {"template": self.template}

    def _rows(self) -> list[dict[str, Any]]:
        path = Path(self.path)
        # A seeded order, so that neighbouring rows of one topic do not fill a short prefix.
        order = list(range(sum(1 for _ in each_of_jsonl(path))))
        random.Random(self.seed).shuffle(order)
        wanted = order[: self.max_examples]
        places = set(wanted)
        rows = {at: row for at, row in enumerate(each_of_jsonl(path)) if at in places}
        return [rows[at] for at in wanted]


def _read_and_written(context: CacheContext, rows: list[dict[str, Any]]) -> Corpus:
    """The inputs of the demonstrations for the encoder, their targets for the decoder."""
    pairs = [context.rendering.texts(row) for row in rows]
    wanted = context.max_length
    sides = [" ".join(pair[side] for pair in pairs) for side in (0, 1)]
    read, written = (context.tokenizer.encode(side) for side in sides)
    if min(len(read), len(written)) < wanted:
        raise PipelineError(
            f"initializations.{context.name}: its inputs have {len(read)} tokens and its targets "
            f"{len(written)}, fewer than kv_prefix.max_length = {wanted}; raise max_examples or "
            "lower kv_prefix.max_length"
        )
    return Corpus("\n\n".join(sides), read[:wanted], written[:wanted])
