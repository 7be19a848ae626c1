"""What the initialisations have in common that choose from a text by what reads it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.from_text import Corpus
from pipeline.initialization.from_text_file import TextFileStart, read_text_file, tokens_up_to
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from pipeline.prefix import PrefixModel


class ReadAfterText(TextFileStart):
    """Chooses from the first `corpus_tokens` of a text file when a variant trains."""

    corpus_tokens: Count = 512

    needs_causal_lm: ClassVar[bool] = True
    chooses_tokens: ClassVar[bool] = True

    @property
    def is_made_by_model(self) -> bool:
        """The model reads inputs after the text."""
        return True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, and its first `corpus_tokens`, to choose from."""
        text = read_text_file(context.name, self.path)
        tokens, count = context.rendering.tokens(text, is_chat=False)
        return Corpus(text, tokens[: self.corpus_tokens], begins_text=bool(count))

    @contextmanager
    def whole(self, context: StartContext) -> "Iterator[PrefixModel]":
        """The model with the whole text before its inputs, where the variant's prefix will be.

        In its layers, and as visible: in the others nothing of the text will be there to attend to.
        """
        from pipeline.prefix import PrefixModel

        corpus = context.cached
        config = context.prefix_config.untrained(len(corpus))
        whole = PrefixModel(context.frozen_model, config).eval()
        whole.load_kv_prefix(corpus)
        try:
            yield whole
        finally:
            whole.detach()

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """`corpus_tokens`, or the whole text where it is shorter."""
        path = Path(self.path)
        if not path.is_file():
            return self.corpus_tokens
        return min(self.corpus_tokens, tokens_up_to(self.corpus_tokens, read_text(path), tokens_in))

    def check_lengths(self, name: str, longest: int, cached_tokens: int) -> None:
        """Raise ValueError for a length above the tokens to choose from."""
        if longest > self.corpus_tokens:
            raise ValueError(
                f"sweep.lengths: {longest} is above initializations.{name}.corpus_tokens = "
                f"{self.corpus_tokens}, of which the prefix is chosen; raise that or lower "
                "the length"
            )

    def check_text(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, longest: int
    ) -> None:
        """Raise PipelineError for a file that is there and has fewer tokens than a prefix."""
        found = self.tokens_of_file(name, tokens_in, longest)
        if found is not None and found < longest:
            raise PipelineError(
                f"initializations.{name}.path: '{self.path}' has {found} tokens, of which the "
                f"{longest} of a prefix cannot be chosen; use a longer text or a shorter prefix"
            )
