"""A person's own questions about a corpus, which the test is made of."""

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.sources.formats.table import READERS, kind_of
from pipeline.sources.one_file import read_file
from pipeline.sources.rows import Rows
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_jsonl

SPLITS = ("test", "test_unseen")
COLUMNS = ("question", "answer")


def write_held_out(path: Path, key: str, folder: Path) -> None:
    """Write `test.jsonl`, and `test_unseen.jsonl` if there is one, of a file or a folder.

    A file is the test; a folder holds a file `test` and may hold one `test_unseen`, of any kind of
    data file. Raises PipelineError, naming `key`, for what cannot be read, lacks a column, or holds
    a row without a question.
    """
    files = held_out_files(path, key)
    with atomic_folder(folder) as aside:
        for split, file in files.items():
            rows = questions_in(file, key)
            write_jsonl(aside / f"{split}.jsonl", rows)
            print(f"{split}: {len(rows)} questions")


def questions_in(file: Path, key: str) -> Rows:
    """The rows of one file. Raises PipelineError as `write_held_out`."""
    rows = read_file(file, key)
    for column in COLUMNS:
        if column not in rows.columns:
            raise PipelineError(
                f"{key}: '{file}' has no column '{column}'; it needs question and answer"
            )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row["question"], str) or not row["question"].strip():
            raise PipelineError(
                f"{key}: row {number} of '{file}' has no question; add it, or leave the row out"
            )
    return rows


def held_out_files(path: Path, key: str) -> dict[str, Path]:
    """The file of each split that there is. Raises PipelineError when there is no test."""
    if not path.is_dir():
        return {"test": path}
    found: dict[str, Path] = {}
    for split in SPLITS:
        file = named_file(path, split, key)
        if file is not None:
            found[split] = file
    if "test" not in found:
        raise PipelineError(
            f"{key}: the folder '{path}' has no test.jsonl, test.csv or the like; add the "
            "questions of the test"
        )
    return found


def named_file(folder: Path, name: str, key: str) -> Path | None:
    """The data file of a name, whatever its kind. Raises PipelineError where there are several."""
    files = sorted(
        file
        for file in folder.iterdir()
        if file.name.partition(".")[0] == name and kind_of(file) in READERS
    )
    if len(files) > 1:
        of = f"of the split {name}" if name in SPLITS else f"called {name}"
        raise PipelineError(
            f"{key}: '{folder}' has several files {of} ({files[0].name}, {files[1].name}); leave "
            "one of them"
        )
    return files[0] if files else None
