"""`lora`: low-rank updates of linear layers, by PEFT."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import Pretrained
from pipeline.baselines.lora_layers import WithLora, train_matrices
from pipeline.baselines.trained import Weights
from pipeline.schema.section import Fraction

if TYPE_CHECKING:
    from pipeline.prefix import PrefixModel


class Lora(WithLora):
    """LoRA alone."""

    type: Literal["lora"]
    dropout: Fraction = 0.0

    weights: ClassVar[Weights] = Weights.BESIDE

    def adaptable(self, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with LoRA's matrices taking gradients, in float32.

        It starts as the pretrained model itself (the second matrix is zero) with a first matrix of
        torch's current seed.

        Raises:
            PipelineError: when PEFT is missing or refuses the settings.
        """
        from pipeline.prefix import PrefixModel

        model = pretrained.load()
        self._add_matrices(model, self.dropout)
        train_matrices(model)
        return PrefixModel(model)

    def save(self, model: "PrefixModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a PEFT adapter folder."""
        self._write_matrices(model.frozen_model, folder)

    def load(self, folder: Path, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with the adapter's matrices, in evaluation mode."""
        # First, since it says in one sentence when PEFT is missing.
        model = self.adaptable(pretrained)
        self._read_matrices(model.frozen_model, folder)
        return model.requires_grad_(False).eval()
