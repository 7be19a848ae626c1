"""`corpus_chunks`: chunks spread over a text file."""

from typing import ClassVar, Literal

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import (
    Corpus,
    TextStart,
    first_tokens,
    read_text_file,
)
from pipeline.schema.section import Count


class CorpusChunks(TextStart):
    """The KV cache of chunks spread evenly over a long text file."""

    type: Literal["corpus_chunks"]
    chunk_tokens: Count = 8

    stands_in_context: ClassVar[bool] = True
    path_is_users_own: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, and chunks of it such that every first part is spread over all."""
        from pipeline.prefix.starts.reshaped import spaced_chunks

        text = read_text_file(context.name, self.path)
        whole = context.tokenizer.encode(text, add_special_tokens=False)
        return first_tokens(
            context, text, spaced_chunks(whole, context.max_length, self.chunk_tokens)
        )
