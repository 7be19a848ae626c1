"""All metrics of one model on the splits that are evaluated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config.training import EvaluateParams
from pipeline.evaluation.answers import exact_match, token_f1
from pipeline.evaluation.classes import measure_classes
from pipeline.evaluation.generation import measure_examples
from pipeline.records import write_json, write_jsonl
from pipeline.task_loss import is_classifier
from pipeline.tokenized import load_split

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def measure_splits(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    params: EvaluateParams,
    *,
    prefix_length: int,
    folder: Path,
) -> None:
    """Write `metrics.json` and `predictions.jsonl` of a model, with or without a prefix.

    Metrics a split: `loss` (nats per target token, the end of the target included), `perplexity`
    (its exponential), `exact_match` and `token_f1` (means over the examples) of greedy generation;
    for a classifier those of `measure_classes`.
    """
    metrics: dict[str, Any] = {"context_tokens": prefix_length}
    predictions: list[dict[str, Any]] = []
    for name in params.splits:
        split = load_split(paths.TOKENIZED / "splits", name)
        metrics[name], rows = _measure(model, tokenizer, params, prefix_length, name, split)
        predictions.extend(rows)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics[name].items())
        print(f"{name}: {shown}")
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "metrics.json", metrics)


def _measure(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    params: EvaluateParams,
    prefix_length: int,
    name: str,
    split: "Dataset",
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    import math

    if is_classifier(model):
        return measure_classes(model, split, params, prefix_length, name)
    outcomes = measure_examples(model, tokenizer, split, params, prefix_length, name)
    targets = sum(len(ids) for ids in split["input_ids"]) - sum(split["target_start"])
    loss = sum(outcome.loss for outcome in outcomes) / targets
    rows = [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": outcome.text,
            "exact_match": exact_match(outcome.text, row["references"]),
            "token_f1": token_f1(outcome.text, row["references"]),
        }
        for row, outcome in zip(split, outcomes, strict=True)
    ]
    return {
        "loss": loss,
        # A float holds no more than e^709; such a loss is beyond comparing anyway.
        "perplexity": math.exp(min(loss, 700.0)),
        "exact_match": sum(row["exact_match"] for row in rows) / len(rows),
        "token_f1": sum(row["token_f1"] for row in rows) / len(rows),
    }, rows
