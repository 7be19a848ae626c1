"""`trained_variant`: another variant of the sweep."""

from collections.abc import Collection
from typing import Literal

from pipeline.initialization.saved_prefix import SavedPrefixStart


class TrainedVariant(SavedPrefixStart):
    """Another variant of this sweep at its trained state; cut or stretched to the length."""

    type: Literal["trained_variant"]

    def check_path(self, name: str, trained: Collection[str]) -> None:
        """Raise ValueError for a path that no other variant of the sweep writes."""
        if self.path not in trained or f"-{name}-seed" in self.path:
            raise ValueError(
                f"initializations.{name}.path: '{self.path}' is no other variant's prefix; "
                "it looks like data/train/len8-random-seed0/prefix.safetensors, with length, "
                "initialisation and seed out of sweep: one at train.learning_rate, on all examples"
            )
