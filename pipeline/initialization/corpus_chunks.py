"""`corpus_chunks`: chunks spread over a text file."""

from collections.abc import Callable
from typing import ClassVar, Literal

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_text import (
    Corpus,
    TextStart,
    first_tokens,
    read_text_file,
    refuse_too_few_to_cache,
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
        whole, count = context.rendering.tokens(text, is_chat=False)
        most = context.max_length - count
        chunks = spaced_chunks(whole[count:], most, self.chunk_tokens)
        return first_tokens(context, text, [*whole[:count], *chunks], bool(count))

    def check_text(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, longest: int
    ) -> None:
        """Raise PipelineError for a file that is there and too short."""
        refuse_too_few_to_cache(name, self.path, tokens_in, cached_tokens)
