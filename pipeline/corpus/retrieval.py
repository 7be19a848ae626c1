"""Which texts a question is about, by the words that they share.

Ranked by BM25 (Robertson and Zaragoza 2009) in Lucene's form, by the library bm25s.
"""

from collections.abc import Sequence

import numpy as np

# A letter or a digit alone is a word, too.
_WORD = r"(?u)\b\w+\b"


class Retriever:
    """Ranks texts, of any language whose words are apart."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._count = len(texts)
        words = _words_of(texts)
        self._has_words = any(words)
        self._ranking = bm25s.BM25()
        if self._has_words:
            self._ranking.index(words, show_progress=False)

    def scores(self, question: str) -> list[float]:
        """How well each text fits a question; 0 where it has none of its words."""
        (words,) = _words_of([question])
        if not words or not self._has_words:
            return [0.0] * self._count
        return [float(score) for score in self._ranking.get_scores(words)]

    def best(self, question: str, count: int) -> list[int]:
        """The places of the `count` texts that fit a question best, best first.

        Equal ones, such as all for a question without a word of theirs, are in their own order.
        """
        scores = np.array(self.scores(question))
        return [int(place) for place in np.argsort(-scores, kind="stable")[:count]]


def _words_of(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    found: list[list[str]] = bm25s.tokenize(
        list(texts), token_pattern=_WORD, stopwords=None, return_ids=False, show_progress=False
    )
    # A text without words is told as one empty word.
    return [[word for word in words if word] for words in found]
