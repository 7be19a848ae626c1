"""Measuring a classifier: its labels, and what loss, accuracy and F1 are made from."""

from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.batching import by_length
from pipeline.evaluation.metrics import kept_of_labels
from pipeline.evaluation.source_target import row_losses
from pipeline.loss.for_model import ClassLoss, loss_columns
from pipeline.prefix import PrefixModel


def measure_classes(
    model: PrefixModel, split: Dataset, params: EvaluateParams, name: str
) -> list[dict[str, Any]]:
    """A line of predictions.jsonl for each example, in the split's order.

    `loss` is in nats, summed over the example's labels, of which `target_tokens` is the number: a
    word is one label (`token_cls`). Accuracy and F1 are of labels, not of spans.
    """
    rows = split.select_columns(loss_columns(split)).to_list()
    loss_of = ClassLoss(model)
    labels = model.config.id2label
    chosen: dict[int, list[int]] = {}
    losses: dict[int, float] = {}
    lengths = [model.prefix_length + len(row["input_ids"]) for row in rows]
    bar = tqdm(total=len(rows), desc=f"evaluate {name}", unit="example")
    with torch.inference_mode(), bar:
        for indices in by_length(lengths, params.max_tokens_per_batch):
            logits, targets = loss_of.logits([rows[i] for i in indices])
            likeliest = logits.argmax(dim=-1).tolist()
            for index, row, loss in zip(
                indices, likeliest, row_losses(logits, targets), strict=True
            ):
                count = len(rows[index]["input_ids"]) - rows[index]["target_start"]
                chosen[index], losses[index] = row[:count], loss
            bar.update(len(indices))
    right = [row["input_ids"][row["target_start"] :] for row in rows]
    return [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": " ".join(labels[label] for label in chosen[index]),
            "loss": losses[index],
            "target_tokens": len(right[index]),
            **kept_of_labels(right[index], chosen[index], len(labels)),
        }
        for index, row in enumerate(split)
    ]
