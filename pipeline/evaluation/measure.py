"""All metrics of one model on the splits that are evaluated."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pipeline.config.evaluate import EvaluateParams
from pipeline.data.beginning import following
from pipeline.data.portions import portions
from pipeline.data.rewritten import tokens_added
from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.data.splits import load_split
from pipeline.data.spread import spread
from pipeline.data.task_type import task_of
from pipeline.data.teacher import with_predictions
from pipeline.evaluation.batches import Apart
from pipeline.evaluation.classes import measure_classes
from pipeline.evaluation.first_token import QUERIES, first_token_ms
from pipeline.evaluation.generation import add_batches, measure_examples, one_batch
from pipeline.evaluation.metrics import Sums, kept_of
from pipeline.evaluation.outcome import Decoding, Outcome
from pipeline.loss.for_model import is_classifier
from pipeline.prefix import PrefixModel
from pipeline.storage.records import write_json, write_jsonl
from pipeline.workspace import paths
from pipeline.workspace.timings import record_timing

_SHOWN = ["id", "input", "references", "input_ids", "target_start"]


def measure_splits(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    params: EvaluateParams,
    *,
    folder: Path,
    max_tokens: int,
    stored: Mapping[str, int] | None = None,
    follow: Callable[[Dataset], Dataset] | None = None,
    until: str | None = None,
) -> None:
    """Write what a model, with or without a prefix, comes to into `folder`.

    `metrics.json` has every metric, `predictions.jsonl` a line for each example.

    Metrics a split: `loss` (nats per target token, the end of the target included), `perplexity`
    (its exponential), where `params` name a teacher `kl` (the divergence from its predictions, as
    in `pipeline.loss.distillation`), and those of `params.metrics`, of greedy generation; of a
    classifier those of its labels. A line of predictions keeps what they are made from (`loss`
    there: the target's nats, summed), so that no statistics afterwards need the model. `max_tokens`
    bounds a batch; `stored`: further facts for `metrics.json`, such as `trainable_parameters`. How
    long it took goes to `data/timings`.

    `follow` gives a split's examples as they go on after the prefix; without it they have a BOS of
    their own where the prefix does not begin a text. `until` ends a generated text besides the
    model's end of a turn.
    """
    metrics: dict[str, Any] = {
        "context_tokens": model.prefix_length,
        "cache_bytes": _cache_bytes(model),
        **(stored or {}),
    }
    task = task_of(paths.TOKENIZED / "splits")
    decoding, apart = Decoding(), Apart(model)
    examples = added = 0
    began = time.perf_counter()

    def followed(split: Dataset) -> Dataset | TokenizedRows:
        return following(split, model.begins_text) if follow is None else follow(split)

    def predictions() -> Iterator[dict[str, Any]]:
        nonlocal examples, added
        for name in params.measured_splits:
            sums = Sums(params.measured(is_classifier(model)))
            split = load_split(paths.TOKENIZED / "splits", name)
            if params.taught is not None:
                split = with_predictions(split, params.taught, name)
            for part in portions(split):
                given = followed(part)
                examples, added = examples + len(part), added + tokens_added(part, given)
                if model.keeps_states and not is_classifier(model):
                    add_batches(apart, model, given, params, max_tokens)
                rows, measured = measure_split(
                    model, tokenizer, params, name, given, max_tokens, task.end, until
                )
                yield from rows
                sums.add(rows)
                decoding.add(measured)
            metrics[name] = sums.scores()
            shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics[name].items())
            print(f"{name}: {shown}")

    write_jsonl(folder / "predictions.jsonl", predictions())
    if follow is not None and not model.prefix_length:
        # Each example has tokens of its own before its input.
        metrics["context_tokens"] = round(added / examples)
    write_json(folder / "metrics.json", metrics)
    apart.tell()
    figures = {"evaluation_seconds": time.perf_counter() - began}
    # A classifier writes nothing.
    if decoding.tokens:
        figures["decoding_tokens_per_second"] = decoding.tokens / max(decoding.seconds, 1e-9)
        if not model.config.is_encoder_decoder:
            split = load_split(paths.TOKENIZED / "splits", params.measured_splits[-1])
            figures["first_token_ms"] = _waited(model, split, followed)
    record_timing(folder.name, **figures)


def time_merged(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    params: EvaluateParams,
    name: str,
    max_tokens: int,
) -> None:
    """Note how fast a decoder answers whose trained matrices were merged into its weights.

    It decodes one of the batches in which `measure_splits` decoded the last split, beside whose
    figures in `data/timings` its own are: what it says is no result, since it is the same but for
    rounding, and is not decoded again for all of the split. `name` is the baseline's.
    """
    chosen = params.measured_splits[-1]
    split = load_split(paths.TOKENIZED / "splits", chosen)
    end, decoding = task_of(paths.TOKENIZED / "splits").end, Decoding()

    def followed(split: Dataset) -> Dataset | TokenizedRows:
        return following(split, model.begins_text)

    # First, as of a model that has answered before.
    waited = _waited(model, split, followed)
    part = followed(next(portions(split)))
    batch = part.select(one_batch(model, part, params, max_tokens))
    of_batch = (model, tokenizer, batch, params, f"{chosen}, merged", max_tokens, end)
    decoding.add(measure_examples(*of_batch))
    record_timing(
        name,
        merged_decoding_tokens_per_second=decoding.tokens / max(decoding.seconds, 1e-9),
        merged_first_token_ms=waited,
    )


def _waited(
    model: PrefixModel, split: Dataset, followed: Callable[[Dataset], Dataset | TokenizedRows]
) -> float:
    queries = followed(split.select(spread(len(split), QUERIES)))
    return first_token_ms(model, rows_of(queries, ["input_ids", "target_start"]))


def measure_split(
    model: PrefixModel,
    tokenizer: PreTrainedTokenizerBase,
    params: EvaluateParams,
    name: str,
    split: Dataset | TokenizedRows,
    max_tokens: int,
    end: int | None,
    until: str | None = None,
) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """The lines of predictions.jsonl of a split's examples, and (but of a classifier) what was
    generated for each; the arguments are those of `measure_examples`."""
    if is_classifier(model):
        return measure_classes(model, split, name, max_tokens), []
    outcomes = measure_examples(model, tokenizer, split, params, name, max_tokens, end, until)
    rows = [
        {
            "split": name,
            "id": row["id"],
            "input": row["input"],
            "references": row["references"],
            "prediction": outcome.text,
            "loss": outcome.loss,
            "target_tokens": len(row["input_ids"]) - row["target_start"],
            **_kept_of_distance(outcome),
            **kept_of(outcome.text, row["references"], params.metrics),
        }
        for row, outcome in zip(split.select_columns(_SHOWN), outcomes, strict=True)
    ]
    return rows, outcomes


def _kept_of_distance(outcome: Outcome) -> dict[str, float]:
    if outcome.distance is None:
        return {}
    nats, tokens = outcome.distance
    return {"kl": nats, "taught_tokens": tokens}


def _cache_bytes(model: PrefixModel) -> int:
    """The bytes of a prefix's keys, values and states in the model's dtype: what a server keeps of
    it in memory, and every token generated reads."""
    kv = model.kv_prefix()
    if kv is None:
        return 0
    tensors = (*kv.keys, *kv.values, *kv.states.values())
    return model.frozen_model.dtype.itemsize * sum(tensor.numel() for tensor in tensors)
