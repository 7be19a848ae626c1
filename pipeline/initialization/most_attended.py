"""`most_attended`: the tokens of a text file that training inputs make use of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.from_text import Corpus, TextStart, read_text_file
from pipeline.schema.section import Count
from pipeline.storage.records import read_text

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix, PrefixModel


class MostAttended(TextStart):
    """The cached tokens of a text file that training inputs attend to most."""

    type: Literal["most_attended"]
    corpus_tokens: Count = 512
    inputs: Count = 16

    path_is_users_own: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True

    def corpus(self, context: CacheContext) -> Corpus:
        """The file's text, and its first `corpus_tokens`, to choose from."""
        text = read_text_file(context.name, self.path)
        tokens, count = context.rendering.tokens(text, is_chat=False)
        return Corpus(text, tokens[: self.corpus_tokens], begins_text=bool(count))

    def start(self, context: StartContext) -> "KVPrefix":
        """The tokens that the training inputs attend to most, with the whole text before them."""
        from pipeline.prefix.starts.attended import picked

        with self._whole(context) as whole:
            return picked(whole, context.cached, self._places(whole, context))

    def tokens(self, context: StartContext) -> list[int]:
        """Those tokens themselves."""
        with self._whole(context) as whole:
            return [context.cached_tokens[place] for place in self._places(whole, context)]

    @contextmanager
    def _whole(self, context: StartContext) -> "Iterator[PrefixModel]":
        """The model with the whole text before its inputs."""
        from pipeline.prefix import PrefixConfig, PrefixModel

        corpus = context.cached
        config = PrefixConfig(num_virtual_tokens=len(corpus))
        whole = PrefixModel(context.frozen_model, config).eval()
        whole.load_kv_prefix(corpus)
        try:
            yield whole
        finally:
            whole.detach()

    def _places(self, whole: "PrefixModel", context: StartContext) -> list[int]:
        """Where in the text the chosen tokens stand."""
        from pipeline.prefix.starts.attended import places_attended

        return places_attended(whole, context.cached, context.length, context.inputs(self.inputs))

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """`corpus_tokens`, or the whole text where it is shorter."""
        path = Path(self.path)
        if not path.is_file():
            return self.corpus_tokens
        return min(self.corpus_tokens, tokens_in(read_text(path)))

    def check_lengths(self, name: str, longest: int, cached_tokens: int) -> None:
        """Raise ValueError for a length above the tokens to choose from."""
        if longest > self.corpus_tokens:
            raise ValueError(
                f"sweep.lengths: {longest} is above initializations.{name}.corpus_tokens = "
                f"{self.corpus_tokens}, of which the prefix is chosen; raise that or lower "
                "the length"
            )
