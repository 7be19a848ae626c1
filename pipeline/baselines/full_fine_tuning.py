"""`full_fine_tuning`: every weight of the model."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.baselines.context import Pretrained
from pipeline.baselines.trained import TrainedBaseline
from pipeline.schema.learning_rate import LearningRate, Rate, RateSearch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WeightRates(RateSearch):
    """Weights that are trained already, of which a step moves every one."""

    lowest: Rate = 5e-6
    highest: Rate = 5e-4


class FullFineTuning(TrainedBaseline):
    """Every weight of the model, trained in float32."""

    type: Literal["full_fine_tuning"]
    learning_rate: LearningRate = 2e-5
    learning_rate_search: WeightRates = WeightRates()

    trains_every_weight: ClassVar[bool] = True

    def adaptable(self, pretrained: Pretrained) -> "PreTrainedModel":
        """The pretrained model with all weights taking gradients, in float32."""
        # Steps of a small rate vanish in the rounding of bfloat16 weights.
        return pretrained.load(dtype="float32").requires_grad_(True)

    def save(self, model: "PreTrainedModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a whole model, in the dtype of the pretrained one."""
        model.to(pretrained.stored_dtype).save_pretrained(folder)

    def load(self, folder: Path, pretrained: Pretrained) -> "PreTrainedModel":
        """The whole model, in evaluation mode."""
        return pretrained.at(folder).load()
