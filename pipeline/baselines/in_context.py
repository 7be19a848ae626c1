"""`in_context`: a text before the input."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import UntrainedBaseline
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class InContext(UntrainedBaseline):
    """The frozen model with the text of a file in its context; null for as much as fits."""

    type: Literal["in_context"]
    max_tokens: Count | None = 512

    needs_causal_lm: ClassVar[bool] = True

    def kv_prefix(self, context: MeasureContext) -> "KVPrefix":
        """The text's KV cache: as a prefix it gives the logits of the text in the context, and is
        computed once for all examples."""
        from pipeline.prefix import kv_prefix_from_text
        from pipeline.prefix.starts.beginning import text_tokens

        text = read_text(Path(self.path))
        most = context.free_positions() if self.max_tokens is None else self.max_tokens
        tokens = min(most, len(text_tokens(context.tokenizer, text)))
        return kv_prefix_from_text(
            context.frozen_model, context.tokenizer, text, num_virtual_tokens=tokens
        )

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The text."""
        return text_stored(0 if kv is None else len(kv))


def text_stored(tokens: int) -> dict[str, int]:
    """What a text in the context costs: no parameters, and its token ids at 4 bytes each."""
    return {"trainable_parameters": 0, "stored_bytes": 4 * tokens}
