"""`demonstrations`: examples of the training split."""

from pathlib import Path
from typing import ClassVar, Literal

from pipeline.initialization.context import CacheContext
from pipeline.initialization.from_examples import ExampleStart, Rows


class Demonstrations(ExampleStart):
    """The KV cache of the first examples of a seeded shuffle of the training split."""

    type: Literal["demonstrations"]

    stands_in_context: ClassVar[bool] = True

    def rows(self, context: CacheContext) -> Rows:
        """The rows in the order of the shuffle."""
        return self.drawn(Path(self.path))
