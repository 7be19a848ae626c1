"""When two questions are the same."""

import re
import unicodedata


def normalized(question: str) -> str:
    """A question without case, punctuation and extra white space: equal for equal questions.

    Signs (+, =, $) tell questions apart. One of punctuation alone keeps it.
    """
    folded = unicodedata.normalize("NFKC", question).casefold()
    words = re.sub(r"\s+", " ", "".join(map(_without_punctuation, folded))).strip()
    return words or "".join(folded.split())


def _without_punctuation(character: str) -> str:
    return " " if unicodedata.category(character).startswith("P") else character
