"""Measuring a classifier: its labels, and what loss, accuracy and F1 are made from."""

from typing import Any

from datasets import Dataset

from pipeline.data.batching import Example
from pipeline.data.measuring import in_order, over_batches
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.evaluation.metrics import kept_of_labels
from pipeline.evaluation.source_target import row_losses
from pipeline.loss.for_model import ClassLoss, loss_columns
from pipeline.prefix import PrefixModel


def measure_classes(
    model: PrefixModel, split: Dataset | TokenizedRows, name: str, max_tokens: int
) -> list[dict[str, Any]]:
    """A line of predictions.jsonl for each example, in the split's order.

    `loss` is in nats, summed over the example's labels, of which `target_tokens` is the number: a
    word is one label (`token_cls`). Accuracy and F1 are of labels, not of spans.
    """
    rows = rows_of(split, loss_columns(split))
    loss_of = ClassLoss(model)
    labels = model.config.id2label

    def measure(examples: list[Example]) -> list[tuple[list[int], float]]:
        logits, targets = loss_of.logits(examples)
        likeliest = logits.argmax(dim=-1).tolist()
        counts = [len(row["input_ids"]) - row["target_start"] for row in examples]
        chosen = [row[:count] for row, count in zip(likeliest, counts, strict=True)]
        return list(zip(chosen, row_losses(logits, targets), strict=True))

    lengths = model.prefix_length + rows.tokens
    measured = in_order(over_batches(measure, rows, lengths, max_tokens, f"evaluate {name}"))
    right = (row["input_ids"][row["target_start"] :] for row in rows)
    return [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": " ".join(labels[label] for label in chosen),
            "loss": loss,
            "target_tokens": len(given),
            **kept_of_labels(given, chosen, len(labels)),
        }
        for row, given, (chosen, loss) in zip(split, right, measured, strict=True)
    ]
