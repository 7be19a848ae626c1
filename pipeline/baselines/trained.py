"""What every baseline of the section `trained_baselines` is and does."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from pipeline.baselines.context import Pretrained
from pipeline.schema.learning_rate import LearningRate, RateSearch
from pipeline.schema.section import Count, Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Training = TypeVar("Training", bound=Section)


WEIGHTS = "weights"
"""The folder, within the training's own, of what is kept beside the pretrained model."""

OF_A_TRAINING = ("trainable_parameters", "train_size", "stored_bytes", "learning_rate")
"""What the measurement repeats of the training's metrics, for the summary table."""


class TrainedBaseline(Section):
    """Another way to adapt the model: its keys in params.yaml, and the model that it trains.

    The keys here stand in place of those of `train` where they are given; null is as in `train`.
    """

    learning_rate: LearningRate
    learning_rate_search: RateSearch
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    batch_size: Count | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Count | None = None
    type: str

    needs_causal_lm: ClassVar[bool] = True
    """Whether it serves `task.type: causal_lm` alone."""

    trains_every_weight: ClassVar[bool] = False
    """Whether it takes weights that are whole, each in one place."""

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give epochs or max_steps, not both")
        return self

    def training(self, train: Training) -> Training:
        """The section `train` that this baseline is trained with."""
        shared = set(TrainedBaseline.model_fields) - {"type"}
        given = {key: getattr(self, key) for key in shared}
        changes: dict[str, Any] = {key: of for key, of in given.items() if of is not None}
        if self.epochs is not None:
            changes["max_steps"] = None
        if self.max_steps is not None:
            changes["epochs"] = None
        return train.model_copy(update=changes)

    @abstractmethod
    def adaptable(self, pretrained: Pretrained) -> "PreTrainedModel":
        """The pretrained model with this baseline's parameters taking gradients, in float32."""

    @abstractmethod
    def save(self, model: "PreTrainedModel", folder: Path, pretrained: Pretrained) -> None:
        """Write what is kept beside the pretrained model."""

    @abstractmethod
    def load(self, folder: Path, pretrained: Pretrained) -> "PreTrainedModel":
        """The model that `save` wrote, in evaluation mode, without gradients."""
