"""`no_prefix`: nothing before the input."""

from typing import TYPE_CHECKING, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import UntrainedBaseline

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class NoPrefix(UntrainedBaseline):
    """The frozen model with nothing before the input."""

    type: Literal["no_prefix"]

    def kv_prefix(self, context: MeasureContext) -> "KVPrefix | None":
        """None."""
        return None

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """Nothing."""
        return {"trainable_parameters": 0, "stored_bytes": 0}
