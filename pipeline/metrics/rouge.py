"""ROUGE-L, by rouge-score."""

from collections.abc import Sequence
from functools import cache
from typing import Any


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L's F measure (with rouge-score's stemmer), best over the references."""
    score = _scorer().score_multi(list(references), prediction)["rougeL"]
    return float(score.fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
