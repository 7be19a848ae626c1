"""`zero`: keys and values of zero."""

from typing import TYPE_CHECKING, Literal

from pipeline.initialization.context import StartContext
from pipeline.initialization.start import Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class Zero(Start):
    """Keys and values of zero, PEFT's `init_weights="zero"`."""

    type: Literal["zero"]

    def origin(self) -> str:
        """Zeros."""
        return "zeros"

    def start(self, context: StartContext) -> "KVPrefix":
        """Zeros, the same for every seed."""
        from pipeline.prefix.starts.drawn import zero_kv_prefix

        return zero_kv_prefix(context.cache_shapes, context.length)
