"""Writing a new project, whole or not at all, and checking it."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.preflight.files import check_files
from pipeline.project.columns import roles_of
from pipeline.project.data_files import WHOLE, Given, read_files, write_files
from pipeline.project.files import PARAMS, copy_pipeline, default_params, is_project, origin
from pipeline.project.frozen_model import ModelChoice, chosen_model, model_of
from pipeline.project.page import project_page
from pipeline.project.repository import DATA, record, refuse_without_git
from pipeline.project.sections import Plan, comments_of, sections_of
from pipeline.project.settings import params_text
from pipeline.project.sizes import refuse_without_room, sizes_of
from pipeline.project.splitting import Example, examples_of, shared_inputs, splits_of
from pipeline.project.task import Task, task_of
from pipeline.project.values import column_of
from pipeline.sources.rows import Row
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import read_text, write_text

# Folders and files that an earlier run of this wrote, and a later one writes anew.
_REPLACED = ("pipeline", DATA)
_OVERWRITTEN = (PARAMS, "dvc.yaml", "requirements.lock")
# What is written once: a person's own words, rules and remotes stay.
_ONCE = (
    *("README.md", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"),
    "data/README.md",
)


@dataclass(frozen=True)
class Wishes:
    """What a person says beside the data; None and () are guessed."""

    inputs: tuple[str, ...] = ()
    target: str | None = None
    task: str | None = None
    model: str | None = None
    corpus: Path | None = None
    name: str | None = None


@dataclass(frozen=True)
class Project:
    """What was written, and what to tell of it: `guesses` by the keys of params.yaml."""

    plan: Plan
    splits: Mapping[str, Sequence[Example]]
    checks: list[str]
    steps: list[str]

    @property
    def shared(self) -> int:
        """How many examples have an input that an earlier split holds too."""
        return shared_inputs(self.splits)


def create(folder: Path, data: Sequence[Path], wishes: Wishes, replace: bool) -> Project:
    """Write a project into `folder`: code, stage graph, params, data, its own git repository.

    Raises PipelineError, and writes nothing, for data or wishes that give no project, and for a
    folder with content where not `replace`; then all but what the project is made of stays there.
    """
    has_content = folder.is_dir() and any(folder.iterdir())
    _refuse_content(folder, has_content, replace)
    _refuse_data_to_be_replaced(folder, data)
    refuse_without_git()
    root = origin()
    base = default_params()
    model = model_of(base) if wishes.model is None else chosen_model(wishes.model)
    given = read_files(data)
    task = _task(given, model, wishes)
    examples = {name: examples_of(task, rows) for name, (_, rows) in given.items()}
    blank = sum(len(rows) - len(examples[name]) for name, (_, rows) in given.items())
    splits = splits_of(examples, task, blank)
    sizes = sizes_of(splits, task, model, _text_of(wishes.corpus))
    refuse_without_room(sizes, model)
    with _written_into(folder) as aside:
        copy_pipeline(aside)
        names = write_files(aside / DATA, given, splits)
        corpus = _copied(wishes.corpus, aside)
        name = wishes.name or _experiment(folder)
        source = given[WHOLE if WHOLE in given else "train"][0].name
        divided = None if splits.keys() == given.keys() else f"drawn from {source}"
        plan = Plan(name, names, DATA, task, sizes, model, corpus, blank, divided)
        text = params_text(base, sections_of(plan), comments_of(plan))
        write_text(aside / PARAMS, text)
        write_text(aside / "README.md", project_page(name))
        with contextlib.chdir(aside):
            checks = [*check_files(load_params()), f"{PARAMS} is valid"]
    return Project(plan, splits, checks, list(record(folder, root, has_content)))


def _task(given: Given, model: ModelChoice, wishes: Wishes) -> Task:
    rows: list[Row] = [row for _, rows in given.values() for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: column_of(name, rows) for name in names}
    roles = roles_of(columns, wishes.inputs, wishes.target)
    for path, others in given.values():
        found = dict.fromkeys(name for row in others for name in row)
        for column in (*roles.inputs, roles.target):
            if column.name not in found:
                raise PipelineError(
                    f"--data: '{path}' has no column '{column.name}', which another file has; its "
                    f"columns are: {', '.join(found)}"
                )
    return task_of(roles, rows, model, wishes.task)


def _refuse_content(folder: Path, has_content: bool, replace: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise PipelineError(f"FOLDER: '{folder}' is a file; name a new folder")
    if has_content and folder.resolve() == origin().resolve() and not is_project(folder):
        raise PipelineError(f"FOLDER: '{folder}' is the clone itself; name a new folder")
    if has_content and not replace:
        raise PipelineError(
            f"FOLDER: '{folder}' is not empty; name a new folder, or add --force, which replaces "
            f"the files of a project there ({', '.join((*_OVERWRITTEN, *_REPLACED))}) and keeps "
            "all others"
        )
    others = [name for name in (*_REPLACED, *_OVERWRITTEN) if (folder / name).exists()]
    if others and not is_project(folder):
        raise PipelineError(
            f"FOLDER: '{folder}' is no project of init, and --force would replace its "
            f"{', '.join(others)}; name another folder, or move these"
        )


def _refuse_data_to_be_replaced(folder: Path, data: Sequence[Path]) -> None:
    for path in data:
        for name in _REPLACED:
            if path.exists() and path.resolve().is_relative_to(folder.resolve() / name):
                raise PipelineError(
                    f"--data: '{path}' is in {folder / name}, which --force replaces; move it"
                )


def _experiment(folder: Path) -> str:
    """The folder's name without what MLflow takes in no name."""
    return "".join(
        "-" if c in "/:?%'\"`" or not c.isprintable() else c for c in folder.resolve().name
    )


def _text_of(corpus: Path | None) -> str | None:
    """The text of a corpus. Raises PipelineError when it is missing, no UTF-8, or empty."""
    if corpus is None:
        return None
    if not corpus.is_file():
        raise PipelineError(f"--corpus: there is no file '{corpus}'")
    text = read_text(corpus)
    if not text.strip():
        raise PipelineError(f"--corpus: '{corpus}' is empty")
    return text


def _copied(corpus: Path | None, folder: Path) -> str | None:
    """Where the project has a corpus."""
    if corpus is None:
        return None
    (folder / "corpora").mkdir()
    shutil.copyfile(corpus, folder / "corpora" / corpus.name)
    return f"corpora/{corpus.name}"


@contextmanager
def _written_into(folder: Path) -> Iterator[Path]:
    """An empty folder to write a project to, whose files are then those of `folder`.

    A folder that is there stays, a shell may be in it; each file of it is replaced whole, or kept
    where it is one that is written once.
    """
    if not folder.exists():
        with atomic_folder(folder.resolve()) as aside:
            yield aside
        return
    # Beside it, since files are renamed into place, and only within one disk.
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".project-") as name:
        yield (aside := Path(name))
        for old in _REPLACED:
            shutil.rmtree(folder / old, ignore_errors=True)
        for path in sorted(aside.rglob("*")):
            inner = path.relative_to(aside)
            placed = folder / inner
            if path.is_dir():
                placed.mkdir(exist_ok=True)
            elif inner.as_posix() not in _ONCE or not placed.exists():
                path.replace(placed)
