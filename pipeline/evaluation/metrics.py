"""The metrics: what is kept of each example, and the score of any set of examples.

Every score is a function of statistics summed over examples, so that a resampled test set costs a
sum and no model: a loss is nats over target tokens, a rate a sum over a count, BLEU and chrF the
counts of n-grams that sacrebleu takes from each sentence, F1 of labels what each label is counted
for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline.evaluation.answers import exact_match, token_f1

ALWAYS = ("loss", "perplexity")
"""Measured whatever `evaluate.metrics` lists: they need no generated text."""

OF_TEXT = ("exact_match", "token_f1", "bleu", "chrf", "rouge_l")
"""Metrics of the generated text, which `evaluate.metrics` chooses from."""

OF_LABELS = ("accuracy", "f1")
"""Metrics of a classifier's labels; F1 is the mean over all labels of each one's F1 (macro)."""

HIGHER_IS_BETTER = frozenset((*OF_TEXT, *OF_LABELS))

PERCENT = frozenset({"bleu", "chrf"})
"""Metrics from 0 to 100, as their field writes them; the other rates are from 0 to 1."""

Row = Mapping[str, Any]
"""A line of predictions.jsonl."""


@dataclass(frozen=True)
class Metric:
    """A metric over the lines of predictions.jsonl.

    `statistics` gives a line's numbers, always as many; `score` maps their sums `[..., k]` over a
    set of lines to that set's scores `[...]`.
    """

    statistics: Callable[[Row], Sequence[float]]
    score: Callable[[np.ndarray], np.ndarray]

    def matrix(self, rows: Sequence[Row]) -> np.ndarray:
        """The statistics of lines, `[lines, k]` float64."""
        return np.array([self.statistics(row) for row in rows], dtype=np.float64)


def kept_of(prediction: str, references: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What a line of predictions.jsonl holds of the named metrics of generated text.

    A number each, and for BLEU and chrF sacrebleu's sentence statistics under `<name>_statistics`.
    Several references count as the metric has it: the best of them for exact match, F1, chrF and
    ROUGE-L; for BLEU n-grams of any of them and the closest length.
    """
    kept: dict[str, Any] = {}
    for name in names:
        if name in PERCENT:
            streams = [[reference] for reference in references]
            (kept[f"{name}_statistics"],) = _sacrebleu(name)._extract_corpus_statistics(
                [prediction], streams
            )
        else:
            kept[name] = _PER_TEXT[name](prediction, references)
    return kept


def kept_of_labels(given: Sequence[int], chosen: Sequence[int], labels: int) -> dict[str, Any]:
    """What a line of predictions.jsonl holds of a classifier's metrics.

    `given` and `chosen` are the ids of an example's labels, of which there are `labels` kinds.
    `f1_statistics` holds three counts of each kind: right, chosen, and given.
    """
    counts = [[0, 0, 0] for _ in range(labels)]
    for truth, choice in zip(given, chosen, strict=True):
        counts[truth][0] += truth == choice
        counts[choice][1] += 1
        counts[truth][2] += 1
    right = sum(count[0] for count in counts)
    return {
        "accuracy": right / len(given),
        "f1_statistics": [number for count in counts for number in count],
    }


def metric_named(name: str) -> Metric:
    """One of `ALWAYS`, `OF_TEXT` and `OF_LABELS`."""
    if name in PERCENT:
        return Metric(lambda row: row[f"{name}_statistics"], lambda sums: _sacre_scores(name, sums))
    if name in ALWAYS:
        return Metric(
            lambda row: (row["loss"], row["target_tokens"]),
            _mean if name == "loss" else _perplexity,
        )
    if name == "accuracy":
        # Of labels, not of examples: a word is one (`token_cls`).
        return Metric(lambda row: (row[name] * row["target_tokens"], row["target_tokens"]), _mean)
    if name == "f1":
        return Metric(lambda row: row["f1_statistics"], _macro_f1)
    return Metric(lambda row: (row[name], 1.0), _mean)


def scores(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """The metrics over all lines: `loss` and `perplexity`, then those named."""
    measured = {}
    for name in (*ALWAYS, *names):
        metric = metric_named(name)
        measured[name] = float(metric.score(metric.matrix(rows).sum(axis=0)))
    return measured


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _perplexity(sums: np.ndarray) -> np.ndarray:
    # A float holds no more than e^709; such a loss is beyond comparing anyway.
    return np.exp(np.minimum(_mean(sums), 700.0))


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    """The mean of each label's F1; one that is neither given nor chosen counts for nothing."""
    right, chosen, given = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    occurs = chosen + given > 0
    scores = 2 * right / np.where(occurs, chosen + given, 1)
    return np.asarray(scores.sum(axis=-1) / occurs.sum(axis=-1))


def _sacre_scores(name: str, sums: np.ndarray) -> np.ndarray:
    metric = _sacrebleu(name)

    def score(row: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(row.tolist()).score)

    return np.apply_along_axis(score, -1, sums)


@cache
def _sacrebleu(name: str) -> Any:
    """sacrebleu's metric with its own defaults (BLEU: 13a tokens; chrF: 6 characters, beta 2).

    Its sentence statistics are what its own significance tests are made from; they have no public
    name.
    """
    return BLEU() if name == "bleu" else CHRF()


def _rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L's F measure (rouge-score, with its stemmer), best over the references."""
    score = _rouge().score_multi(list(references), prediction)["rougeL"]
    return float(score.fmeasure)


@cache
def _rouge() -> Any:
    return RougeScorer(["rougeL"], use_stemmer=True)


_PER_TEXT: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": _rouge_l,
}
