"""Loss of the target and greedy generation of an encoder-decoder."""

import time

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.batching import IGNORED, Example
from pipeline.data.measuring import in_order, over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.evaluation.outcome import Outcome
from pipeline.loss.for_model import SourceTargetLoss, loss_columns
from pipeline.prefix import PrefixModel


def measure_source_targets(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Dataset | TokenizedRows,
    params: EvaluateParams,
    name: str,
    max_tokens: int,
) -> list[Outcome]:
    """Each example's summed loss (nats) and generated text, in the split's order.

    Generation is greedy, up to `params.max_new_tokens`, with the model's own settings otherwise
    (a forced first token, as mBART has it).
    """
    rows = rows_of(split, loss_columns(split))
    # The tokens that one row can take up.
    longest = model.prefix_length + rows.tokens + params.max_new_tokens
    loss_of = SourceTargetLoss(model)

    def measure(examples: list[Example]) -> list[Outcome]:
        losses = row_losses(*loss_of.logits(examples))
        began = time.perf_counter()
        generated = model.generate(
            **loss_of.inputs(examples),
            max_new_tokens=params.max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
        seconds = (time.perf_counter() - began) / len(examples)
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        counts = _written(generated, model.config.pad_token_id)
        return [
            Outcome(loss, text.strip(), count, seconds)
            for loss, text, count in zip(losses, texts, counts, strict=True)
        ]

    return in_order(over_batches(measure, rows, longest, max_tokens, f"evaluate {name}"))


def _written(generated: torch.Tensor, padding: int | None) -> list[int]:
    """The tokens of each row after the one that the decoder starts from, without the padding."""
    rows = generated[:, 1:]
    if padding is None:
        return [rows.shape[1]] * len(rows)
    return [int(count) for count in (rows != padding).sum(dim=1)]


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The summed cross-entropy of each row of `[rows, targets, classes]`, in nats."""
    labels = labels.to(logits.device)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    # Added up on the CPU: Apple's MPS has no float64.
    return [float(row) for row in losses.view_as(labels).cpu().double().sum(dim=1)]
