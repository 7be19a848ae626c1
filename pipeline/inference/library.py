"""A library: a folder of documents, a prefix for each, and those that a question is about.

Which they are is told by the words that they share (`pipeline.corpus.retrieval`). Documents are
read for their words alone; of prefixes those that are chosen are loaded, and no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.prefix import prefix_files
from pipeline.corpus.documents import read_documents
from pipeline.corpus.retrieval import Retriever
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Found:
    """A document that a question is about: its name, its prefix's file, and its BM25 score."""

    name: str
    prefix: Path
    score: float


def find(question: str, documents: Path, prefixes: Path, top: int) -> list[Found]:
    """The documents that a question is about, at the most `top`, the best first.

    Raises PipelineError for what is no corpus, for a folder without a prefix of any document, and
    for a question that shares no word with one.
    """
    texts, files = _texts(documents), prefix_files(prefixes)
    names = sorted(texts.keys() & files.keys())
    if not names:
        raise PipelineError(
            f"--prefixes: '{prefixes}' holds no prefix of a document in '{documents}'; name "
            f"each as its document, {min(texts)}.safetensors"
        )
    scores = Retriever([texts[name] for name in names]).scores(question)
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    found = [Found(name, files[name], score) for name, score in ranked[:top] if score > 0]
    if not found:
        raise PipelineError(
            f"the question shares no word with the documents in '{documents}'; name prefixes with "
            "`python -m pipeline generate --prefix`"
        )
    return found


def _texts(folder: Path) -> Mapping[str, str]:
    if not folder.is_dir():
        raise PipelineError(
            f"--documents: there is no folder '{folder}'; put a text there for each"
        )
    texts: dict[str, str] = {}
    for document in read_documents(folder, "--documents"):
        name = Path(document.name).stem
        if name in texts:
            raise PipelineError(f"--documents: '{folder}' holds two called {name}; rename one")
        texts[name] = document.text
    return texts
