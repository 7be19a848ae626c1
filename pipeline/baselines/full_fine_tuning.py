"""`full_fine_tuning`: every weight of the model."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import Pretrained
from pipeline.baselines.trained import Rate, TrainedBaseline, Weights

if TYPE_CHECKING:
    from pipeline.prefix import PrefixModel


class FullFineTuning(TrainedBaseline):
    """Every weight of the model, trained in float32."""

    type: Literal["full_fine_tuning"]
    learning_rate: Rate = 2e-5

    trains_every_weight: ClassVar[bool] = True
    weights: ClassVar[Weights] = Weights.REPLACED

    def adaptable(self, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with all weights taking gradients, in float32."""
        from pipeline.prefix import PrefixModel

        # Steps of a small rate vanish in the rounding of bfloat16 weights.
        return PrefixModel(pretrained.load(dtype="float32").requires_grad_(True))

    def save(self, model: "PrefixModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a whole model, in the dtype of the pretrained one."""
        model.frozen_model.to(pretrained.stored_dtype).save_pretrained(folder)

    def load(self, folder: Path, pretrained: Pretrained) -> "PrefixModel":
        """The whole model, in evaluation mode."""
        from pipeline.prefix import PrefixModel

        return PrefixModel(pretrained.at(folder).load())
