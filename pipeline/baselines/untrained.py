"""What every baseline of the section `baselines` is and does."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pipeline.baselines.context import MeasureContext
from pipeline.schema.section import GivenPath, Section

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


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
    def kv_prefix(self, context: MeasureContext) -> "KVPrefix | None":
        """The keys and values before every input, or None for nothing.

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """

    @abstractmethod
    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """`trainable_parameters`, and `stored_bytes` beside the model, of what `kv_prefix` gave."""
