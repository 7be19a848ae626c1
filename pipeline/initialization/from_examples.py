"""What the initialisations have in common that start from examples of the training split."""

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

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

Rows = Sequence[Mapping[str, Any]]


class ExampleStart(TextStart):
    """The KV cache of examples of the training split, rendered one after another."""

    template: str | None = None
    max_examples: Count = 64
    seed: int = 0

    shows_examples: ClassVar[bool] = True

    @abstractmethod
    def rows(self, context: CacheContext) -> Rows:
        """The rows of the training split, in the order in which they stand."""

    def corpus(self, context: CacheContext) -> Corpus:
        """The examples as one text; inputs and targets apart where an encoder reads the inputs."""
        rows = self.rows(context)
        if context.has_encoder and self.template is None:
            return _read_and_written(context, rows)
        text = context.rendering.demonstrations(rows, self.template)
        is_chat = self._is_chat(context)
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

    def drawn(self, path: Path) -> list[dict[str, Any]]:
        """The first `max_examples` of a seeded shuffle of the rows of a file.

        Raises PipelineError when it is missing or no JSON lines.
        """
        # A seeded order, so that neighbouring rows of one topic do not fill a short prefix.
        order = list(range(sum(1 for _ in each_of_jsonl(path))))
        random.Random(self.seed).shuffle(order)
        wanted = order[: self.max_examples]
        places = set(wanted)
        rows = {at: row for at, row in enumerate(each_of_jsonl(path)) if at in places}
        return [rows[at] for at in wanted]

    def shown_tokens(self, context: CacheContext, rows: Rows) -> tuple[list[int], bool]:
        """The tokens of rows as one text, up to `max_length`, and whether BOS begins them."""
        text = context.rendering.demonstrations(rows, self.template)
        tokens, count = context.rendering.tokens(text, self._is_chat(context))
        return tokens[: context.max_length], bool(count)

    def _is_chat(self, context: CacheContext) -> bool:
        return self.template is None and context.use_chat_template


def _read_and_written(context: CacheContext, rows: Rows) -> Corpus:
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
