"""The stages that are killed at random moments: how each runs, and what it writes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config import load_params
from pipeline.stages import (
    fetch_model,
    library_study,
    library_together,
    library_tokenize,
    library_train,
    self_study,
    teach,
    train,
)
from pipeline.workspace import paths
from tests.conftest import tiny_model, tiny_params, tiny_tokenizer
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    working_in,
    write_params,
)
from tests.test_library_graph import DOCUMENTS, with_a_library, write_documents
from tests.test_self_study_graph import STUDY

_TEACHER = {"path": "texts/corpus.txt", "top_k": 5}


@dataclass(frozen=True)
class Killed:
    """`make` writes into a folder what `run` needs, which then runs there."""

    make: Callable[[Path], None]
    run: Callable[[], None]
    written: tuple[Path, ...]


def _train() -> None:
    train.run(load_params(), VARIANT)


def _make_taught(folder: Path) -> None:
    make_training_folder(folder)
    params = faulty_params(Path("inputs/model"))
    write_params(folder, params | {"teachers": {"rules": _TEACHER}})


def _teach() -> None:
    teach._EXAMPLES = 2
    teach.run(load_params(), "rules")


def _make_model(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    model = folder / "inputs" / "model"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    params = tiny_params(Path("inputs/model"))
    change(params)
    write_params(folder, params)
    with working_in(folder):
        fetch_model.run(load_params())


def _make_studied(folder: Path) -> None:
    for name in ("texts", "questions"):
        (folder / name).mkdir()
    (folder / "texts" / "corpus.txt").write_text("A line names a field, and gives its value. " * 9)
    study = STUDY | {"questions_per_chunk": 4, "chunk_tokens": 64, "summary_tokens": 160}
    _make_model(folder, lambda params: params.update(self_study={"notes": study}))


def _self_study() -> None:
    self_study.run(load_params(), "notes")


def _make_library(folder: Path) -> None:
    write_documents(folder)
    _make_model(folder, with_a_library)


def _library() -> None:
    params = load_params()
    for name in DOCUMENTS:
        library_study.run(params, name)
        library_tokenize.run(params, name)
    rounds: tuple[Literal["alone", "among"], ...] = ("alone", "among")
    for of in rounds:
        for name in DOCUMENTS:
            library_train.run(params, name, of)
    library_together.run(params, "pairs")


KILLED = {
    "train": Killed(make_training_folder, _train, (paths.TRAIN,)),
    "self_study": Killed(_make_studied, _self_study, (paths.SELF_STUDY,)),
    "teach": Killed(_make_taught, _teach, (paths.TEACHERS,)),
    "library": Killed(_make_library, _library, (paths.LIBRARY,)),
}
