"""`corpus_chunks`: chunks spread over a text file."""

from typing import ClassVar, Literal

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import Corpus, first_tokens
from pipeline.initialization.from_text_file import TextFileStart, read_text_file
from pipeline.schema.section import Count


class CorpusChunks(TextFileStart):
    """The KV cache of chunks spread evenly over a long text file."""

    type: Literal["corpus_chunks"]
    chunk_tokens: Count = 8

    stands_in_context: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, and chunks of it such that every first part is spread over all."""
        from pipeline.prefix.starts.reshaped import spaced_chunks

        text = read_text_file(context.name, self.path)
        whole, count = context.rendering.tokens(text, is_chat=False)
        most = context.max_length - count
        chunks = spaced_chunks(whole[count:], most, self.chunk_tokens)
        return first_tokens(context, text, [*whole[:count], *chunks], bool(count))
