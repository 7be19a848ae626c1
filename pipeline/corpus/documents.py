"""The documents of a corpus: a file, or a folder of files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.corpus.html_text import html_text
from pipeline.errors import PipelineError

Texts = Iterator[tuple[str | None, str]]
"""The texts of one file, each with the name that it has in the file, if any."""


@dataclass(frozen=True)
class Document:
    """A text, and what it is called: its file's path within the corpus, or as JSON names it."""

    name: str
    text: str


def read_documents(path: Path, key: str = "corpus") -> Iterator[Document]:
    """The documents of a file, or of all files below a folder, in the order of their paths.

    HTML (`.html`, `.htm`, `.xhtml`) gives its visible text. A line of JSON lines (`.jsonl`,
    `.ndjson`) is an object whose `text` is a document, called as its `name` says, if it has one.
    Any other file is a text as it is, Markdown and source code too. What begins with a dot is
    passed over. They are read one by one as they are asked for.

    Raises:
        PipelineError: naming `key`, when there is nothing at `path`, a file is no UTF-8 text, no
            JSON lines, or empty.
    """
    if not path.exists():
        raise PipelineError(f"{key}: there is nothing at '{path}'; name an existing file or folder")
    root = path if path.is_dir() else path.parent
    files = sorted(_files_below(path)) if path.is_dir() else [path]
    if not files:
        raise PipelineError(f"{key}: the folder '{path}' holds no files; put documents there")
    for file in files:
        name = file.relative_to(root).as_posix()
        read = _READERS.get(file.suffix.lower(), _plain_texts)
        for own, text in read(file, key):
            if not text.strip():
                where = f"'{file}'" if own is None else f"'{own}' of '{file}'"
                raise PipelineError(f"{key}: the document {where} is empty; leave it out")
            yield Document(name if own is None else own, text)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _plain_texts(path: Path, key: str) -> Texts:
    yield None, _text_of(path, key)


def _html_texts(path: Path, key: str) -> Texts:
    yield None, html_text(_text_of(path, key))


def _json_texts(path: Path, key: str) -> Texts:
    is_empty = True
    # Not splitlines(): text may hold U+2028, which ends no JSON line.
    for number, line in enumerate(_text_of(path, key).split("\n"), start=1):
        if not line.strip():
            continue
        is_empty = False
        try:
            row = json.loads(line)
            text, name = row["text"], row.get("name", f"{path.name}:{number}")
            # Half a character can be written as an escape, and no file can hold it.
            json.dumps([text, name], ensure_ascii=False).encode()
        except (ValueError, TypeError, LookupError, AttributeError):
            text = name = None
        if not isinstance(text, str) or not isinstance(name, str):
            raise PipelineError(
                f"{key}: line {number} of '{path}' is no JSON object whose 'text' is a document's "
                'text; write {"text": ..., "name": ...} on each line'
            )
        yield name, text
    if is_empty:
        raise PipelineError(f"{key}: '{path}' holds no documents; leave it out")


def _text_of(path: Path, key: str) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{key}: '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8, or take "
            "it out of the corpus"
        ) from error
    if "\0" in text:
        raise PipelineError(
            f"{key}: '{path}' is no text (it holds a null character); take it out of the corpus"
        )
    return text.replace("\r\n", "\n")


_READERS: dict[str, Callable[[Path, str], Texts]] = {
    ".html": _html_texts,
    ".htm": _html_texts,
    ".xhtml": _html_texts,
    ".jsonl": _json_texts,
    ".ndjson": _json_texts,
}
