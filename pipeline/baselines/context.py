"""What the stages hand to a baseline; each thing is loaded when it is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class MeasureContext(Protocol):
    """What the stage `baselines` has."""

    @property
    def frozen_model(self) -> "PreTrainedModel":
        """The frozen model, in the precision of `evaluate`."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The frozen model's tokenizer."""

    def free_positions(self) -> int:
        """The tokens of context that every example measured leaves free.

        Raises PipelineError when the model names no limit, or when there are none.
        """


class Pretrained(Protocol):
    """A language model on disk, and where and in which precision to load it."""

    @property
    def stored_dtype(self) -> "torch.dtype":
        """The dtype of the weights on disk."""

    def load(self, dtype: str | None = None) -> "PreTrainedModel":
        """The model in evaluation mode, no weight of which takes a gradient.

        `dtype` stands in place of the precision asked for. Raises PipelineError when there is none.
        """

    def at(self, folder: Path) -> Self:
        """The model in another folder, to be loaded alike."""
