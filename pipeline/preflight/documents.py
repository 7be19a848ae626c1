"""Whether the documents of a library are long enough for the prefixes that start from them."""

from collections.abc import Callable
from pathlib import Path

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.standing.last_runs import LastRuns

_SURELY = 64
"""Bytes a token: a file of as many gives a prefix, so that long documents are not read here."""


def check_documents(params: Params, tokens_in: Callable[[str], int], last: LastRuns) -> None:
    """Raise PipelineError for a document that is there and has fewer tokens than a prefix.

    Of those that are yet to be trained from; `tokens_in` counts a text's tokens.
    """
    length = params.library.prefix.length
    for name, path in params.library.documents.items():
        if last.is_current(f"library_alone@{name}") or not Path(path).exists():
            continue
        if _bytes_at(Path(path)) >= _SURELY * length:
            continue
        from pipeline.corpus.documents import read_documents

        key = f"library.documents.{name}"
        text = "\n\n".join(document.text for document in read_documents(Path(path), key))
        if (found := tokens_in(text)) < length:
            raise PipelineError(
                f"{key}: '{path}' gives {found} tokens to start from, fewer than "
                f"library.prefix.length = {length}; lower it, or leave the document out"
            )


def _bytes_at(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
