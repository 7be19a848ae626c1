"""`in_context`: a text before the input."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.errors import PipelineError
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class InContext(UntrainedBaseline):
    """The frozen model with the text of a file in its context; null for as much as fits."""

    type: Literal["in_context"]
    max_tokens: Count | None = 512

    needs_causal_lm: ClassVar[bool] = True

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """The text's KV cache: as a prefix it gives the logits of the text in the context, and is
        computed once for all examples."""
        from pipeline.prefix import kv_prefix_from_tokens

        tokens, count = context.tokens(read_text(Path(self.path)))
        if len(tokens) == count:
            raise PipelineError(f"baselines: the text in '{self.path}' is empty")
        most = context.free_positions() if self.max_tokens is None else self.max_tokens
        kv = kv_prefix_from_tokens(context.frozen_model, tokens[:most])
        yield Before(kv.beginning_text(bool(count)))

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The text."""
        return text_stored(0 if kv is None else len(kv))

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """The text's, up to `max_tokens`."""
        path = Path(self.path)
        if self.max_tokens is None or not path.is_file():
            return None
        return min(self.max_tokens, tokens_in(read_text(path)))


def text_stored(tokens: int) -> dict[str, int]:
    """What a text in the context costs: no parameters, and its token ids at 4 bytes each."""
    return {"trainable_parameters": 0, "stored_bytes": 4 * tokens}
