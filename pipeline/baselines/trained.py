"""What every baseline of the section `trained_baselines` is and does."""

from abc import abstractmethod
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from pipeline.baselines.context import Pretrained
from pipeline.schema.learning_rate import LearningRate, RateSearch
from pipeline.schema.section import Count, Section

if TYPE_CHECKING:
    from torch.nn import Parameter

    from pipeline.prefix import PrefixModel

Training = TypeVar("Training", bound=Section)


WEIGHTS = "weights"
"""The folder, within the training's own, of what is kept beside the pretrained model."""

OF_A_TRAINING = ("trainable_parameters", "train_size", "stored_bytes", "learning_rate")
"""What the measurement repeats of the training's metrics, for the summary table."""


class Weights(StrEnum):
    """What a model that was adapted computes with, which says what serving many tasks costs."""

    UNCHANGED = "unchanged"
    BESIDE = "unchanged, with matrices beside them"
    REPLACED = "a copy of their own"


class Beginning(NamedTuple):
    """An initialisation by its name, and the virtual tokens of a prefix that starts from it."""

    initialization: str
    length: int


class RateApart(NamedTuple):
    """Parameters that train at a peak rate of their own."""

    parameters: "tuple[Parameter, ...]"
    rate: float


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

    needs_attention_alone: ClassVar[bool] = False
    """Whether it serves models alone all of whose layers attend."""

    weights: ClassVar[Weights]
    """What becomes of the pretrained model's weights."""

    length_key: ClassVar[str | None] = None
    """The key that says how many virtual tokens stand before every input; None where none do."""

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

    @property
    def begins_from(self) -> Beginning | None:
        """Where a prefix starts that it trains; None for what trains none, or draws its own."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """How many stand before every input."""
        return 0 if self.length_key is None else getattr(self, self.length_key)

    @abstractmethod
    def adaptable(self, pretrained: Pretrained) -> "PrefixModel":
        """The pretrained model with this baseline's parameters taking gradients, in float32."""

    def rate_apart(self, model: "PrefixModel") -> RateApart | None:
        """Those parameters of what `adaptable` gave that `learning_rate` is not for."""
        return None

    @abstractmethod
    def save(self, model: "PrefixModel", folder: Path, pretrained: Pretrained) -> None:
        """Write what is kept beside the pretrained model."""

    @abstractmethod
    def load(self, folder: Path, pretrained: Pretrained) -> "PrefixModel":
        """The model that `save` wrote, in evaluation mode, without gradients."""

    def merge(self, model: "PrefixModel") -> bool:
        """Put what was trained into the weights of what `load` gave; False where that cannot be.

        The answers are the same but for rounding; a token may take less time.
        """
        return False
