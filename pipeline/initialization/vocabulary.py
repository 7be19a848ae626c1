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

    @property
    def is_drawn(self) -> bool:
        """Without words each seed draws its own."""
        return self.words is None

    def origin(self) -> str:
        """Words."""
        return "words of the vocabulary" if self.words is None else "the words that are given"

    def tokens(self, context: StartContext) -> list[int]:
        """The words' tokens, or those that the seed draws."""
        from pipeline.prefix.starts.drawn import tokens_of_words

        return tokens_of_words(
            context.frozen_model, context.tokenizer, self.words, context.length, context.generator
        )

    def start(self, context: StartContext) -> "KVPrefix":
        """The words' cache, repeated to the length; without words, of tokens of the seed."""
        from pipeline.prefix.starts.drawn import kv_prefix_from_words

        return kv_prefix_from_words(
            context.frozen_model, context.tokenizer, self.words, context.length, context.generator
        )
