"""`no_prefix`: nothing before the input."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import Before, UntrainedBaseline

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class NoPrefix(UntrainedBaseline):
    """The frozen model with nothing before the input."""

    type: Literal["no_prefix"]

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """Nothing."""
        yield Before(None)

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """Nothing."""
        return {"trainable_parameters": 0, "stored_bytes": 0}
