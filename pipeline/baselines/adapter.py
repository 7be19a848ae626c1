"""`adapter`: a prefix that PEFT trained."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import MeasureContext
from pipeline.baselines.untrained import Before, UntrainedBaseline
from pipeline.storage.records import read_json

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class Adapter(UntrainedBaseline):
    """A PEFT prefix-tuning adapter folder, measured as it is: a variant trained elsewhere."""

    type: Literal["adapter"]

    is_variant: ClassVar[bool] = True
    path_is_users_own: ClassVar[bool] = True
    needs_causal_lm: ClassVar[bool] = True

    def choices(self, context: MeasureContext) -> Iterator[Before]:
        """The adapter's prefix.

        Raises PrefixError when there is none, or it is of another model.
        """
        from pipeline.prefix.architecture.shapes import adapter_shapes
        from pipeline.prefix.files.peft_format import load_adapter

        yield Before(load_adapter(self.path, adapter_shapes(context.frozen_model)))

    def tokens_before(self, tokens_in: Callable[[str], int]) -> int | None:
        """The adapter's virtual tokens."""
        config = Path(self.path) / "adapter_config.json"
        tokens = read_json(config).get("num_virtual_tokens") if config.exists() else None
        # What is wrong with the folder, the stage says.
        return tokens if isinstance(tokens, int) else None

    def stored(self, kv: "KVPrefix | None") -> dict[str, int]:
        """The numbers of the prefix, and the file that holds them, as a variant's training does."""
        from pipeline.prefix.files.peft_format import WEIGHTS

        assert kv is not None, "an adapter has a prefix"
        return {
            "trainable_parameters": sum(tensor.numel() for tensor in (*kv.keys, *kv.values)),
            "stored_bytes": (Path(self.path) / WEIGHTS).stat().st_size,
        }
