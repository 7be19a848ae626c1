"""`random`: normal noise."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.initialization.context import StartContext
from pipeline.initialization.start import Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class Random(Start):
    """Normal noise, as PEFT starts a prefix; drawn anew for each seed."""

    type: Literal["random"]
    scale: Annotated[float, Field(gt=0)] = 1.0

    @property
    def is_drawn(self) -> bool:
        """Each seed has its own noise."""
        return True

    def origin(self) -> str:
        """Noise."""
        return f"noise of standard deviation {self.scale:g}"

    def start(self, context: StartContext) -> "KVPrefix":
        """Noise of the variant's seed, of standard deviation `scale`, states by their own size."""
        from pipeline.prefix import random_kv_prefix

        return random_kv_prefix(context.cache_shapes, context.length, self.scale, context.generator)
