"""The loss of an example's target for every type of task, chosen by the model.

An example's tokens after `target_start` are its target: a text, or the ids of its labels.
"""

from typing import Any

from datasets import Dataset

from pipeline.loss.causal import TargetLoss
from pipeline.loss.classes import ClassLoss
from pipeline.loss.source_target import SourceTargetLoss


def loss_for(model: Any) -> Any:
    """The loss of a `PrefixModel` or a bare model: `TargetLoss`, or one of those below."""
    frozen = getattr(model, "frozen_model", model)
    if is_classifier(model):
        return ClassLoss(model)
    return SourceTargetLoss(model) if frozen.config.is_encoder_decoder else TargetLoss(model)


def is_classifier(model: Any) -> bool:
    """Whether a model's head tells labels apart."""
    name = type(getattr(model, "frozen_model", model)).__name__
    return name.endswith(("ForSequenceClassification", "ForTokenClassification"))


def loss_columns(split: Dataset) -> list[str]:
    """The columns of a tokenized split that a loss reads."""
    wanted = ("input_ids", "target_start", "positions")
    return [name for name in wanted if name in split.column_names]
