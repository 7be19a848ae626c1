"""`vocabulary`: words, given or drawn."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.initialization.context import StartContext
from pipeline.initialization.start import Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class Vocabulary(Start):
    """The KV cache of words, given or drawn anew for each seed (the paper's real words)."""

    type: Literal["vocabulary"]
    words: Annotated[list[str], Field(min_length=1)] | None = None

    def start(self, context: StartContext) -> "KVPrefix":
        """The words' cache, repeated to the length; without words, of tokens of the seed."""
        from pipeline.prefix.starts.drawn import kv_prefix_from_words

        return kv_prefix_from_words(
            context.frozen_model, context.tokenizer, self.words, context.length, context.generator
        )
