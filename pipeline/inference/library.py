"""A library: documents, a prefix for each, and those that a question is about.

Which they are is told by the words that they share (`pipeline.corpus.retrieval`). Documents are
read for their words alone; of prefixes those that are chosen are loaded, and no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.library import LibraryParams
from pipeline.config.prefix import prefix_files
from pipeline.corpus.documents import read_documents
from pipeline.corpus.retrieval import Retriever
from pipeline.errors import PipelineError
from pipeline.workspace import paths

_NEAR = 0.5  # of the best score: what is below shares common words alone


@dataclass(frozen=True)
class Library:
    """Texts and prefixes' files by the names of documents; `where` says what holds the texts."""

    texts: Mapping[str, str]
    prefixes: Mapping[str, Path]
    where: str


@dataclass(frozen=True)
class Found:
    """A document that a question is about: its name, its prefix's file, and its BM25 score."""

    name: str
    prefix: Path
    score: float


def library_in(documents: Path, prefixes: Path) -> Library:
    """That of a folder of documents and a folder of prefixes, named alike.

    Raises PipelineError for what is no corpus, and for a folder without a prefix of any document.
    """
    texts, files = _texts(documents), prefix_files(prefixes)
    if not texts.keys() & files.keys():
        raise PipelineError(
            f"--prefixes: '{prefixes}' holds no prefix of a document in '{documents}'; name "
            f"each as its document, {min(texts)}.safetensors"
        )
    return Library(texts, files, f"in '{documents}'")


def library_of(library: LibraryParams) -> Library:
    """The one of params.yaml, with the prefixes of its last round.

    Raises PipelineError for a document that cannot be read, and before any is trained.
    """
    files = prefix_files(paths.LIBRARY_AMONG)
    if not library.documents.keys() & files.keys():
        raise PipelineError(
            f"{paths.LIBRARY_AMONG}: no document of library.documents has a prefix yet; run `dvc "
            "repro library_among`"
        )
    texts = {
        name: "\n\n".join(
            document.text for document in read_documents(Path(path), f"library.documents.{name}")
        )
        for name, path in library.documents.items()
    }
    return Library(texts, files, "of library.documents")


def find(question: str, library: Library, top: int) -> list[Found]:
    """The documents that a question is about, at the most `top`, the best first.

    Those with less than half of the best one's score are passed over. Raises PipelineError for a
    question that shares no word with one.
    """
    names = sorted(library.texts.keys() & library.prefixes.keys())
    scores = Retriever([library.texts[name] for name in names]).scores(question)
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    near = max(scores) * _NEAR
    found = [
        Found(name, library.prefixes[name], score)
        for name, score in ranked[:top]
        if score > 0 and score >= near
    ]
    if not found:
        raise PipelineError(
            f"the question shares no word with the documents {library.where}; name prefixes with "
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
