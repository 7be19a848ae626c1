"""What the initialisations have in common that make one start of several chunks of a text."""

from typing import TYPE_CHECKING

from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.from_text import Corpus, first_tokens
from pipeline.initialization.from_text_file import TextFileStart, read_text_file
from pipeline.initialization.start import Cached
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class WholeChunks(TextFileStart):
    """Takes `chunks` chunks of a text file, spread evenly, each as a text of its own.

    A chunk has `kv_prefix.max_length` tokens, of which a shorter prefix has the first. Chunks of a
    text that is shorter than all of them together overlap.
    """

    chunks: Count = 8

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, and the tokens of its chunks one after another."""
        text = read_text_file(context.name, self.path)
        whole, count = context.rendering.tokens(text, is_chat=False)
        first_tokens(context, text, whole)
        begin, body = whole[:count], whole[count:]
        room = context.max_length - count
        last = len(body) - room
        starts = [last * number // max(1, self.chunks - 1) for number in range(self.chunks)]
        tokens = [token for at in starts for token in [*begin, *body[at : at + room]]]
        return Corpus(text, tokens, begins_text=bool(count))

    @property
    def is_made_by_model(self) -> bool:
        """The model reads the chunks."""
        return True

    def cached(self, context: CacheContext) -> Cached:
        """The chunks' tokens, which are read when a variant trains."""
        corpus = self.corpus(context)
        summary = f"{self.chunks} chunks of {context.max_length} tokens, read when a variant trains"
        return Cached(None, summary, corpus.text, corpus.tokens, corpus.begins_text)

    def chunk_tokens(self, context: StartContext) -> list[list[int]]:
        """The first p tokens of each chunk."""
        tokens = context.cached_tokens
        size = len(tokens) // self.chunks
        return [tokens[at : at + context.length] for at in range(0, len(tokens), size)]

    def prefix_of(self, context: StartContext, tokens: list[int]) -> "KVPrefix":
        """What the frozen model computes of a chunk's tokens."""
        from pipeline.prefix import kv_prefix_from_tokens

        kv = kv_prefix_from_tokens(context.frozen_model, tokens)
        return kv.beginning_text(context.cached_begins_text)
