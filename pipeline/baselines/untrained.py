"""What every baseline of the section `baselines` is and does."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pipeline.baselines.context import MeasureContext
from pipeline.schema.section import GivenPath, Section

if TYPE_CHECKING:
    from datasets import Dataset

    from pipeline.prefix import KVPrefix


@dataclass(frozen=True)
class Before:
    """What stands before every input, and how inputs go on after it.

    `kv` is None for nothing; `follow` gives a split's examples after it, where they are not those
    after any prefix; `until` ends an answer besides the end of a turn; `facts` are for
    `metrics.json`; `prefix_always_visible` shows it to sliding-window layers from any distance.
    """

    kv: "KVPrefix | None"
    follow: "Callable[[Dataset], Dataset] | None" = None
    until: str | None = None
    facts: Mapping[str, int] = field(default_factory=dict)
    prefix_always_visible: bool = False


class UntrainedBaseline(Section):
    """A baseline that is measured as it is: its keys in params.yaml, and what precedes the input.

    `path` is what it is made from, so that DVC watches it.
    """

    path: GivenPath
    type: str

    is_variant: ClassVar[bool] = False
    """Whether it is a prefix trained elsewhere, which counts among the variants."""

    path_is_users_own: ClassVar[bool] = False
    """Whether `path` is the user's own file or folder, which is there before any stage runs."""

    needs_causal_lm: ClassVar[bool] = False
    """Whether it serves `task.type: causal_lm` alone."""

    @abstractmethod
    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """What can stand before every input; of several the stage takes the one with the lowest
        loss on validation.

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """

    @abstractmethod
    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """`trainable_parameters`, and `stored_bytes` beside the model, of what was chosen."""

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """The tokens that it puts before every input, as far as files tell that are there already.

        `tokens_in` counts a text's tokens. None for none, or for as many as fit.
        """
        return None
