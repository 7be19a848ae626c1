"""BLEU and chrF, by sacrebleu with its own defaults (BLEU: 13a tokens; chrF: 6 characters, beta 2).

Its sentence statistics are what its own significance tests are made from; they have no public name.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Name = Literal["bleu", "chrf"]


def bleu_counts(prediction: str, references: Sequence[str]) -> Sequence[float]:
    """Lengths, and n-grams right and in all, of one sentence."""
    return _counts("bleu", prediction, references)


def bleu(sums: "np.ndarray") -> "np.ndarray":
    """BLEU of summed counts, 0 to 100."""
    return _scores("bleu", sums)


def chrf_counts(prediction: str, references: Sequence[str]) -> Sequence[float]:
    """Character n-grams of the text, of the best reference, and of both."""
    return _counts("chrf", prediction, references)


def chrf(sums: "np.ndarray") -> "np.ndarray":
    """chrF of summed counts, 0 to 100."""
    return _scores("chrf", sums)


def _counts(name: Name, prediction: str, references: Sequence[str]) -> Sequence[float]:
    streams = [[reference] for reference in references]
    (counts,) = _sacrebleu(name)._extract_corpus_statistics([prediction], streams)
    kept: Sequence[float] = counts
    return kept


def _scores(name: Name, sums: "np.ndarray") -> "np.ndarray":
    import numpy as np

    metric = _sacrebleu(name)

    def score(row: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(row.tolist()).score)

    return np.apply_along_axis(score, -1, sums)


@cache
def _sacrebleu(name: Name) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU() if name == "bleu" else CHRF()
