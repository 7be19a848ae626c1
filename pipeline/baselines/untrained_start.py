"""`untrained`: the prefix that variants start from, before any training."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class UntrainedStart(UntrainedBaseline):
    """An initialisation as it is, of `length` virtual tokens; `path` is what `kv_prefix` kept."""

    type: Literal["untrained"]
    length: Count

    needs_causal_lm: ClassVar[bool] = True

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """The start of a variant, where it is drawn the one with the seed 0."""
        kv = context.start(self.initialization, self.length)
        yield Before(kv, prefix_always_visible=context.starts_always_visible)

    @property
    def initialization(self) -> str:
        """The name of the initialisation that `path` is of."""
        return Path(self.path).name

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The numbers of the prefix, none of which is trained."""
        assert kv is not None, "a start has a prefix"
        tensors = (*kv.keys, *kv.values, *kv.states.values())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return {"trainable_parameters": 0, "stored_bytes": size}

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """Its virtual tokens."""
        return self.length
