"""Comparing generated text with its references, as SQuAD's evaluation does.

Rajpurkar et al. 2016 (arXiv 1606.05250), section 6.1: both sides are lower-cased, punctuation and
English articles are dropped, white space is folded; several references give the best of them.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 when the normalized prediction equals a normalized reference, else 0.0."""
    return float(any(_normalize(prediction) == _normalize(r) for r in references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over words, best over the references."""
    return max(_f1(_normalize(prediction).split(), _normalize(r).split()) for r in references)


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))


def _normalize(text: str) -> str:
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
