"""The loss of an example's target for every type of task, chosen by the model.

An example's tokens after `target_start` are its target: a text, or the ids of its labels.
"""

from typing import Any

from datasets import Dataset

from pipeline.data.rows import TokenizedRows
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS
from pipeline.loss.causal import TargetLoss
from pipeline.loss.classes import ClassLoss
from pipeline.loss.distillation import DistillationLoss
from pipeline.loss.source_target import SourceTargetLoss
from pipeline.prefix import PrefixModel


def loss_for(model: PrefixModel, distilled: float = 0.0) -> Any:
    """The loss of a model's targets: `TargetLoss`, or one of those below.

    `distilled` is the share of the divergence from a teacher, which decoders alone have.
    """
    if is_classifier(model):
        return ClassLoss(model)
    if distilled:
        return DistillationLoss(model, distilled)
    return SourceTargetLoss(model) if model.config.is_encoder_decoder else TargetLoss(model)


def is_classifier(model: PrefixModel) -> bool:
    """Whether a model's head tells labels apart."""
    name = type(model.frozen_model).__name__
    return name.endswith(("ForSequenceClassification", "ForTokenClassification"))


def loss_columns(split: Dataset | TokenizedRows) -> list[str]:
    """The columns of a tokenized split that a loss reads."""
    wanted = ("input_ids", "target_start", "positions", TEACHER_IDS, TEACHER_LOG_PROBS)
    return [name for name in wanted if name in split.column_names]
