"""A library: a folder of documents, a prefix for each, and those that a question is about.

Which they are is told by BM25 (Robertson and Zaragoza 2009), by the library bm25s: words that a
question shares with a document weigh by how rare they are. Documents are read for their words
alone; of prefixes those that are chosen are loaded, and no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bm25s

from pipeline.config.prefix import prefix_files
from pipeline.errors import PipelineError

_SUFFIXES = (".txt", ".md")
# Words of one letter too; bm25s takes them to be noise.
_WORD = r"(?u)\b\w+\b"


@dataclass(frozen=True)
class Found:
    """A document that a question is about: its name, its prefix's file, and its BM25 score."""

    name: str
    prefix: Path
    score: float


def find(question: str, documents: Path, prefixes: Path, top: int) -> list[Found]:
    """The documents that a question is about, at the most `top`, the best first.

    Raises PipelineError for folders without documents or without a prefix of any, for a text that
    is none, and for a question that shares no word with any document.
    """
    texts, files = _texts(documents), prefix_files(prefixes)
    names = sorted(texts.keys() & files.keys())
    if not names:
        raise PipelineError(
            f"{prefixes}: holds no prefix of a document in {documents}; name each as its document, "
            f"{min(texts)}.safetensors"
        )
    scores = _scores(question, [texts[name] for name in names])
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    found = [Found(name, files[name], score) for name, score in ranked[:top] if score > 0]
    if not found:
        raise PipelineError(
            f"the question shares no word with the documents in {documents}; name prefixes with "
            "`python -m pipeline generate --prefix`"
        )
    return found


def _scores(question: str, texts: list[str]) -> list[float]:
    """The BM25 score of each text; 0 where it has none of the question's words."""
    how = {"token_pattern": _WORD, "return_ids": False, "show_progress": False, "stopwords": []}
    words: list[list[str]] = bm25s.tokenize([question, *texts], **how)
    index = bm25s.BM25()
    index.index(words[1:], show_progress=False)
    known = {word for own in words[1:] for word in own}
    asked = [word for word in words[0] if word in known]
    return [float(score) for score in index.get_scores(asked)] if asked else [0.0] * len(texts)


def _texts(folder: Path) -> Mapping[str, str]:
    files = [path for path in sorted(folder.glob("*")) if path.suffix in _SUFFIXES]
    if not files:
        raise PipelineError(
            f"{folder}: holds no documents; put a text there for each, <name>.txt or <name>.md"
        )
    texts: dict[str, str] = {}
    for path in files:
        if path.stem in texts:
            raise PipelineError(f"{folder}: holds two documents called {path.stem}; rename one")
        try:
            texts[path.stem] = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise PipelineError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    return texts
