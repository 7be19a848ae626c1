"""What the initialisations have in common that start from a text file of the user's own."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pipeline.errors import PipelineError
from pipeline.initialization.from_text import TextStart

_SURELY = 64
"""Characters in which there is surely a token: a long text is not counted to its end."""


class TextFileStart(TextStart):
    """Takes the tokens of a text file: `kv_prefix.max_length` of them, unless a type says more."""

    path_is_users_own: ClassVar[bool] = True

    def check_text(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, longest: int
    ) -> None:
        """Raise PipelineError for a file that is there and too short."""
        self.refuse_too_few(name, tokens_in, cached_tokens)

    def refuse_too_few(
        self, name: str, tokens_in: Callable[[str], int], cached_tokens: int, skipped: int = 0
    ) -> None:
        """Raise PipelineError where fewer than `cached_tokens` come after those `skipped`."""
        found = self.tokens_of_file(name, tokens_in, cached_tokens + skipped)
        if found is not None and found - skipped < cached_tokens:
            raise PipelineError(
                f"initializations.{name}.path: '{self.path}' has {found - skipped} tokens, fewer "
                f"than kv_prefix.max_length = {cached_tokens}; use a longer text or lower "
                "kv_prefix.max_length"
            )

    def tokens_of_file(self, name: str, tokens_in: Callable[[str], int], most: int) -> int | None:
        """As `tokens_up_to`; None where the file is not there, as a stage's output may be.

        Raises PipelineError as `read_text_file` does.
        """
        if not Path(self.path).exists():
            return None
        return tokens_up_to(most, read_text_file(name, self.path), tokens_in)


def read_text_file(name: str, path: str) -> str:
    """The text of the user's file.

    Raises PipelineError when it is missing, a folder, no UTF-8, or empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PipelineError(
            f"initializations.{name}.path: there is no file '{path}'; name an existing text file"
        ) from error
    except IsADirectoryError as error:
        raise PipelineError(
            f"initializations.{name}.path: '{path}' is a folder; name a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"initializations.{name}.path: '{path}' is not UTF-8 text (byte {error.start})"
        ) from error
    if not text.strip():
        raise PipelineError(f"initializations.{name}.path: '{path}' is empty")
    return text


def tokens_up_to(most: int, text: str, tokens_in: Callable[[str], int]) -> int:
    """The tokens of a text, of which no more than its beginning is looked at where that has `most`.

    `tokens_in` counts a text's tokens.
    """
    beginning = text[: _SURELY * most]
    found = tokens_in(beginning)
    return found if found >= most or len(beginning) == len(text) else tokens_in(text)
