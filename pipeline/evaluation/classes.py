"""Measuring a classifier: loss, accuracy and F1 of its labels."""

from typing import TYPE_CHECKING, Any

from pipeline.batching import by_length
from pipeline.config.training import EvaluateParams
from pipeline.evaluation.source_target import row_losses
from pipeline.task_loss import ClassLoss, loss_columns

if TYPE_CHECKING:
    from datasets import Dataset


def measure_classes(
    model: Any, split: "Dataset", params: EvaluateParams, prefix_length: int, name: str
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of a split, and a row for each prediction.

    `loss` is in nats per label, `accuracy` the share of labels that are right, `f1` the mean over
    all labels of each one's F1 (macro), where a label that is neither given nor predicted counts
    for nothing. A word is one label (`token_cls`); F1 is of labels, not of spans.
    """
    import torch
    from sklearn.metrics import accuracy_score, f1_score
    from tqdm import tqdm

    rows = split.select_columns(loss_columns(split)).to_list()
    loss_of = ClassLoss(model)
    labels = model.config.id2label
    chosen: dict[int, list[int]] = {}
    losses: dict[int, float] = {}
    lengths = [prefix_length + len(row["input_ids"]) for row in rows]
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
    given = [label for target in right for label in target]
    predicted = [label for index in range(len(rows)) for label in chosen[index]]
    metrics = {
        "loss": sum(losses.values()) / len(given),
        "accuracy": float(accuracy_score(given, predicted)),
        "f1": float(f1_score(given, predicted, average="macro", zero_division=0.0)),
    }
    predictions = [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": " ".join(labels[label] for label in chosen[index]),
            "loss": losses[index],
            "target_tokens": len(right[index]),
            "accuracy": float(accuracy_score(right[index], chosen[index])),
        }
        for index, row in enumerate(split)
    ]
    return metrics, predictions
