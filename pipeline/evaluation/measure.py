"""All metrics of one model on the splits that are evaluated."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.splits import load_split
from pipeline.evaluation.classes import measure_classes
from pipeline.evaluation.generation import measure_examples
from pipeline.evaluation.metrics import kept_of, scores
from pipeline.evaluation.outcome import Outcome
from pipeline.loss.for_model import is_classifier
from pipeline.metrics.metric import OfLabels
from pipeline.metrics.table import names_of
from pipeline.prefix import PrefixModel
from pipeline.storage.records import write_json, write_jsonl
from pipeline.workspace import paths
from pipeline.workspace.timings import record_timing


def measure_splits(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    params: EvaluateParams,
    *,
    folder: Path,
    stored: Mapping[str, int] | None = None,
) -> None:
    """Write `metrics.json` and `predictions.jsonl` of a model, with or without a prefix.

    Metrics a split: `loss` (nats per target token, the end of the target included), `perplexity`
    (its exponential), and those of `params.metrics`, of greedy generation; of a classifier those
    of its labels. A line of predictions keeps what they are made from (`loss` there: the target's
    nats, summed), so that no statistics afterwards need the model. `stored`: further facts for
    `metrics.json`, such as `trainable_parameters`. How long it took goes to `data/timings`.
    """
    metrics: dict[str, Any] = {"context_tokens": model.prefix_length, **(stored or {})}
    predictions: list[dict[str, Any]] = []
    outcomes: list[Outcome] = []
    began = time.perf_counter()
    for name in params.measured_splits:
        split = load_split(paths.TOKENIZED / "splits", name)
        rows, measured = _measure(model, tokenizer, params, name, split)
        metrics[name] = scores(rows, names_of(OfLabels) if is_classifier(model) else params.metrics)
        predictions.extend(rows)
        outcomes.extend(measured)
        shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics[name].items())
        print(f"{name}: {shown}")
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "metrics.json", metrics)
    figures = {"evaluation_seconds": time.perf_counter() - began}
    # A classifier writes nothing.
    if outcomes:
        seconds = max(sum(outcome.decoding_seconds for outcome in outcomes), 1e-9)
        tokens = sum(outcome.generated_tokens for outcome in outcomes)
        figures["decoding_tokens_per_second"] = tokens / seconds
    record_timing(folder.name, **figures)


def _measure(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    params: EvaluateParams,
    name: str,
    split: Dataset,
) -> tuple[list[dict[str, Any]], list[Outcome]]:
    if is_classifier(model):
        return measure_classes(model, split, params, name), []
    outcomes = measure_examples(model, tokenizer, split, params, name)
    rows = [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": outcome.text,
            "loss": outcome.loss,
            "target_tokens": len(row["input_ids"]) - row["target_start"],
            **kept_of(outcome.text, row["references"], params.metrics),
        }
        for row, outcome in zip(split, outcomes, strict=True)
    ]
    return rows, outcomes
