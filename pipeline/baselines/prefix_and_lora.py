"""`prefix_and_lora`: a prefix and LoRA's matrices, trained together on one frozen model."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import Pretrained
from pipeline.baselines.lora_layers import WithLora, train_matrices
from pipeline.baselines.trained import Beginning, RateApart, Weights
from pipeline.schema.learning_rate import Rate
from pipeline.schema.section import Count, Name

if TYPE_CHECKING:
    from pipeline.prefix import PrefixModel

_PREFIX = "prefix.safetensors"


class PrefixAndLora(WithLora):
    """A prefix that starts from an initialisation, and LoRA beside it.

    `learning_rate` is LoRA's, `prefix_learning_rate` the prefix's; both follow `train.schedule`. A
    search finds LoRA's alone, with the prefix beside it at its own rate in every short training.
    The model's own dropout is off, as while a prefix trains alone. Where layers recur the prefix
    is of keys and values alone.
    """

    type: Literal["prefix_and_lora"]
    initialization: Name
    length: Count
    prefix_learning_rate: Rate = 5e-3

    weights: ClassVar[Weights] = Weights.BESIDE
    length_key: ClassVar[str | None] = "length"

    @property
    def begins_from(self) -> Beginning:
        """The initialisation of its prefix, and the virtual tokens."""
        return Beginning(self.initialization, self.length)

    def adaptable(self, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with a prefix and LoRA's matrices taking gradients, in float32.

        It starts as the pretrained model after that prefix: the second matrix is zero.

        Raises:
            PipelineError: when PEFT is missing or refuses the settings.
            PrefixError: when the initialisation does not fit the model.
        """
        from pipeline.prefix import PrefixConfig, PrefixModel
        from pipeline.prefix.caches import recurs

        frozen = pretrained.load()
        self._add_matrices(frozen)
        # Initial states train at a rate that is neither of the two here.
        kinds = ("attention",) if recurs(frozen.config) else None
        model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=self.length, kinds=kinds))
        model.load_kv_prefix(pretrained.start(model))
        # A prefix freezes the model that it is for.
        train_matrices(frozen)
        return model

    def rate_apart(self, model: "PrefixModel") -> RateApart:
        """The prefix's parameters, and their rate."""
        return RateApart(tuple(model.encoder.parameters()), self.prefix_learning_rate)

    def save(self, model: "PrefixModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a PEFT adapter folder of LoRA's, and the prefix into it."""
        kv = model.kv_prefix()
        assert kv is not None, "it was trained with a prefix"
        self._write_matrices(model.frozen_model, folder)
        kv.save(folder / _PREFIX)

    def load(self, folder: Path, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with both, in evaluation mode."""
        from pipeline.prefix import KVPrefix, PrefixModel
        from pipeline.prefix.architecture.fitting import config_holding

        frozen = pretrained.load()
        self._add_matrices(frozen)
        self._read_matrices(frozen, folder)
        kv = KVPrefix.load(folder / _PREFIX)
        model = PrefixModel(frozen, config_holding(frozen, kv))
        model.load_kv_prefix(kv)
        return model.requires_grad_(False).eval()
