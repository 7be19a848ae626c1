"""What every initialisation of params.yaml is and does."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.initialization.context import CacheContext, StartContext
from pipeline.schema.section import GivenPath, Section

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


@dataclass(frozen=True)
class Cached:
    """What the stage `kv_prefix` keeps of an initialisation, once for all lengths.

    `summary` says in a few words what it is; `text` is the text that it was computed from, and
    `tokens` those of it that `kv` has a key and a value of. Where the model keeps states, no
    shorter prefix can be cut from a longer one: of a text `kv` is None, and every length is
    computed from `tokens`, of which `begins_text` says whether the first is what begins a text.
    """

    kv: "KVPrefix | None"
    summary: str
    text: str | None = None
    tokens: Sequence[int] | None = None
    begins_text: bool = False


class Start(Section):
    """An initialisation: its keys in params.yaml, and the prefix that a variant starts from.

    `path` is what it is made from, so that DVC watches it.
    """

    path: GivenPath
    type: str

    stands_in_context: ClassVar[bool] = False
    """Whether its prefix is the first p entries of one KV cache of a text, of
    `kv_prefix.max_length` tokens: then the text can stand in the context as well."""

    path_is_users_own: ClassVar[bool] = False
    """Whether `path` is the user's own file or folder, which is there before any stage runs."""

    needs_causal_lm: ClassVar[bool] = False
    """Whether it serves `task.type: causal_lm` alone."""

    chooses_tokens: ClassVar[bool] = False
    """Whether it keeps single tokens of a text, which a state does not keep apart."""

    shows_examples: ClassVar[bool] = False
    """Whether its virtual tokens come from training examples, of which `prefix.leave_one_out`
    hides each from itself."""

    validates_cache: ClassVar[bool] = False
    """Whether validation examples are read after its cache, of up to `kv_prefix.max_length`
    tokens."""

    reads_targets: ClassVar[bool] = False
    """Whether training examples are read after its text with their targets."""

    def cached(self, context: CacheContext) -> Cached | None:
        """What the stage `kv_prefix` computes or reads; None for one drawn when a variant trains.

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """
        return None

    @abstractmethod
    def start(self, context: StartContext) -> "KVPrefix":
        """The prefix of `context.length` virtual tokens that a variant's training starts from.

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """

    @property
    def is_drawn(self) -> bool:
        """Whether each seed has a start of its own."""
        return False

    @property
    def is_made_by_model(self) -> bool:
        """Whether the model has more to read than the tokens kept when a variant's training begins.

        What that takes is counted as the training's.
        """
        return False

    def origin(self) -> str:
        """What its virtual tokens come from, in a few words."""
        return f"{self.type} of {self.path}"

    def tokens(self, context: StartContext) -> "list[int] | None":
        """The token that each of `context.length` virtual tokens was computed of, at the start.

        Of an encoder-decoder those that its encoder reads. None for what is of no text's tokens.
        Raises PipelineError or PrefixError as `start` does.
        """
        return None

    def check_lengths(self, name: str, longest: int, cached_tokens: int) -> None:
        """Raise ValueError when a prefix cannot be as long as the longest of the sweep.

        `cached_tokens` is `kv_prefix.max_length`.
        """

    def check_path(self, name: str, trained: Collection[str]) -> None:
        """Raise ValueError when `path` cannot be one of this initialisation.

        `trained` are the prefix files that the sweep's variants write.
        """

    def check_text(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, longest: int
    ) -> None:
        """Raise PipelineError when the text at `path` is there and too short.

        `tokens_in` counts a text's tokens; `cached_tokens` is `kv_prefix.max_length`, and `longest`
        the virtual tokens of the longest prefix that starts from it.
        """

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """The tokens of its text that training inputs are read after; None for none.

        `tokens_in` counts a text's tokens.
        """
        return None

    def templates(self) -> Mapping[str, str]:
        """Its Jinja2 templates over the data's columns, by their keys."""
        return {}
