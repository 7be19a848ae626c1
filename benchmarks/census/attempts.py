"""What was measured, or what came of trying: a refusal in a sentence, or an error."""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.prefix import PrefixError

T = TypeVar("T")


class NotMeasuredError(Exception):
    """Why there is nothing to ask, in a sentence of the census's own."""


@dataclass(frozen=True)
class Problem:
    """Why there is no result.

    Attributes:
        said: the sentence of a refusal; of any other error its class, its first line and where it
            was raised.
        refused: whether this project refused, by a `PrefixError`.
    """

    said: str
    refused: bool = False


def attempt(measure: Callable[[], T]) -> T | Problem:
    """What `measure` returns, or why it does not."""
    try:
        return measure()
    except PrefixError as error:
        return Problem(" ".join(str(error).split()), refused=True)
    except Exception as error:  # models and libraries raise whatever they like
        return Problem(_line(error))


def _line(error: Exception) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, NotMeasuredError):
        return said
    # No path of this machine: what a row says stands in the docs.
    said = re.sub(r"(/[\w.+-]+){2,}/", "", said)[:200]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {said}{where}"
