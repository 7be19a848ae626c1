"""What the initialisations have in common that start from the KV cache of a text."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.start import Cached, Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


@dataclass(frozen=True)
class Corpus:
    """A text, and which of its tokens are prefilled into a KV cache.

    `written` is what an encoder-decoder's decoder is given; None for `tokens` too. `begins_text`:
    the first token is what begins a text (BOS). `demonstrations` has of each training example in it
    its first token, one past its last, and its id; None where it is of none, or they cannot be told
    apart.
    """

    text: str
    tokens: list[int]
    written: list[int] | None = None
    begins_text: bool = False
    demonstrations: Sequence[tuple[int, int, str]] | None = None


class TextStart(Start):
    """Prefills a text's tokens once for all lengths, and starts from the first p of them.

    Of a model that keeps states the first p tokens are read when a variant trains.
    """

    @abstractmethod
    def corpus(self, context: CacheContext) -> Corpus:
        """The text and the tokens to prefill.

        Raises PipelineError when its file is missing, empty, not UTF-8, or too short.
        """

    def cached(self, context: CacheContext) -> Cached:
        """The keys and values that the frozen model computes of the corpus, float32.

        None of them where it keeps states, which are of one length alone.
        """
        from pipeline.prefix import kv_prefix_from_source_tokens, kv_prefix_from_tokens
        from pipeline.prefix.caches import recurs
        from pipeline.prefix.demonstrated import note

        corpus = self.corpus(context)
        if corpus.written is None and recurs(context.frozen_model.config):
            summary = f"{len(corpus.tokens)} tokens, which each length reads anew for its states"
            return Cached(None, summary, corpus.text, corpus.tokens, corpus.begins_text)
        if corpus.written is None:
            kv = kv_prefix_from_tokens(context.frozen_model, corpus.tokens)
        else:
            kv = kv_prefix_from_source_tokens(context.frozen_model, corpus.tokens, corpus.written)
        kv = kv.beginning_text(corpus.begins_text)
        if corpus.demonstrations is not None:
            kv.metadata.update(note(corpus.demonstrations))
        summary = f"KV cache of {len(corpus.tokens)} tokens"
        return Cached(kv, summary, corpus.text, corpus.tokens)

    def origin(self) -> str:
        """The file."""
        return f"tokens of {self.path}"

    def tokens(self, context: StartContext) -> list[int] | None:
        """The first p tokens that were prefilled."""
        return context.cached_tokens[: context.length]

    def start(self, context: StartContext) -> "KVPrefix":
        """What the first p tokens are: the cache's first entries, or with states read anew."""
        return context.first_tokens()

    def check_lengths(self, name: str, longest: int, cached_tokens: int) -> None:
        """Raise ValueError for a length above the tokens that are prefilled."""
        if longest > cached_tokens:
            raise ValueError(
                f"sweep.lengths: {longest} is above kv_prefix.max_length = {cached_tokens}, the "
                f"tokens of KV cache computed for '{name}'; raise kv_prefix.max_length or lower "
                "the length"
            )


def first_tokens(
    context: CacheContext, text: str, tokens: list[int], begins_text: bool = False
) -> Corpus:
    """A text's tokens as far as they are prefilled. Raises PipelineError for too few."""
    if len(tokens) < context.max_length:
        raise PipelineError(
            f"initializations.{context.name}: its text has {len(tokens)} tokens, fewer than "
            f"kv_prefix.max_length = {context.max_length}; use a longer text or lower "
            "kv_prefix.max_length"
        )
    return Corpus(text, tokens[: context.max_length], begins_text=begins_text)
