"""The loss of an example's target for every type of task, chosen by the model.

An example's tokens after `target_start` are its target: a text, or the ids of its labels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.batching import IGNORED, Example, of_like_length
from pipeline.target_loss import TargetLoss

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


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


def loss_columns(split: "Dataset") -> list[str]:
    """The columns of a tokenized split that a loss reads."""
    wanted = ("input_ids", "target_start", "positions")
    return [name for name in wanted if name in split.column_names]


class _PaddedLoss:
    packable = False
    """There is no packed path for these; batches are padded."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """A batch in parts of like length, as in `TargetLoss`."""
        lengths = [len(example["input_ids"]) for example in examples]
        return [[examples[i] for i in part] for part in of_like_length(lengths)]

    def __call__(self, examples: Sequence[Example], weight: float = 1.0) -> "torch.Tensor":
        """The examples' summed cross-entropy (nats, float32 scalar) of targets, weighted."""
        from pipeline.cross_entropy import summed_cross_entropy

        logits, labels = self.logits(examples)
        is_target = labels != IGNORED
        return summed_cross_entropy(logits[is_target], labels[is_target], weight)

    def logits(self, examples: Sequence[Example]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Logits `[rows, targets, classes]` and labels `[rows, targets]`, padded by `IGNORED`."""
        raise NotImplementedError

    def inputs(self, examples: Sequence[Example]) -> dict[str, "torch.Tensor"]:
        """The inputs, padded on the right: `input_ids` and `attention_mask` `[rows, tokens]`."""
        rows = [list(example["input_ids"][: example["target_start"]]) for example in examples]
        # RoBERTa counts positions, and causal classifiers find the last token, by the padding.
        frozen = getattr(self.model, "frozen_model", self.model)
        padding = frozen.config.pad_token_id or 0
        ids = self._padded(rows, padding)
        mask = self._padded([[1] * len(row) for row in rows], 0)
        return {"input_ids": ids, "attention_mask": mask}

    def _targets(self, examples: Sequence[Example]) -> "torch.Tensor":
        rows = [list(example["input_ids"][example["target_start"] :]) for example in examples]
        return self._padded(rows, IGNORED)

    def _padded(self, rows: list[list[int]], value: int) -> "torch.Tensor":
        import torch

        width = max(map(len, rows))
        padded = [row + [value] * (width - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self.model.device)


class SourceTargetLoss(_PaddedLoss):
    """An encoder-decoder's: the encoder reads the input, the decoder writes the target."""

    def logits(self, examples: Sequence[Example]) -> tuple["torch.Tensor", "torch.Tensor"]:
        labels = self._targets(examples)
        # From labels each architecture makes its decoder's input as it was trained to.
        output = self.model(**self.inputs(examples), labels=labels, use_cache=False)
        return output.logits, labels


class ClassLoss(_PaddedLoss):
    """A classifier's: one label for the input, or one for the first token of each word."""

    def logits(self, examples: Sequence[Example]) -> tuple["torch.Tensor", "torch.Tensor"]:
        import torch

        labels = self._targets(examples)
        logits = self.model(**self.inputs(examples)).logits
        if logits.ndim == 2:
            return logits[:, None], labels
        at = self._padded([list(example["positions"]) for example in examples], 0)
        rows = torch.arange(len(at), device=at.device)[:, None]
        return logits[rows, at], labels
