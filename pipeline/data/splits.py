"""The tokenized splits on disk: Arrow files through `datasets`, with stable bytes."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path

from datasets import Dataset, Features, List, Value, load_from_disk
from datasets.arrow_writer import ArrowWriter
from datasets.utils.logging import disable_progress_bar

from pipeline.data.example import TokenizedExample
from pipeline.data.task_type import CAUSAL_LM, TaskType
from pipeline.errors import PipelineError, first_line
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import batched

_ALWAYS = {
    "id": Value("string"),
    "input_ids": List(Value("int32")),
    "target_start": Value("int32"),
    "input": Value("string"),
    "target": Value("string"),
    "references": List(Value("string")),
}
# Columns that a split has where its examples do.
_OPTIONAL = {
    "positions": List(Value("int32")),
    "beginning": Value("int32"),
    "turns": Value("string"),
}
_ROWS_AT_ONCE = 1000


def save_splits(
    splits: Mapping[str, Iterable[TokenizedExample]], folder: Path, task: TaskType = CAUSAL_LM
) -> None:
    """Write each split as `datasets` does, in place of whatever `folder` held.

    Examples of a split, of which there is at least one, are written as they come.
    """
    disable_progress_bar()
    with atomic_folder(folder) as aside:
        task.save(aside)
        for name, rows in splits.items():
            _save_split(rows, aside / name)


def _save_split(rows: Iterable[TokenizedExample], folder: Path) -> None:
    batches = batched(rows, _ROWS_AT_ONCE)
    first = next(batches)
    features = Features({**_ALWAYS, **{k: v for k, v in _OPTIONAL.items() if k in first[0]}})

    def write(writer: ArrowWriter) -> None:
        for batch in chain([first], batches):
            columns = {name: [row[name] for row in batch] for name in features}  # type: ignore[literal-required]
            writer.write_batch(columns)

    write_split(folder, features, write)


def write_split(folder: Path, features: Features, write: Callable[[ArrowWriter], None]) -> None:
    """What `Dataset.save_to_disk` writes of what `write` writes, in one file, with stable bytes."""
    path = folder.with_suffix(".arrow")
    with ArrowWriter(path=str(path), features=features) as writer:
        write(writer)
        writer.finalize()
    # datasets draws a random fingerprint where it cannot hash; content makes a stable one.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    empty = Dataset.from_dict({name: [] for name in features}, features=features)
    Dataset(empty.data, fingerprint=digest[:16]).save_to_disk(str(folder), num_shards=1)
    (file_of_none,) = folder.glob("*.arrow")
    path.replace(file_of_none)


def load_split(folder: Path, name: str) -> Dataset:
    """One tokenized split, memory-mapped. Raises PipelineError when it is not there."""
    path = folder / name
    if not path.exists():
        known = ", ".join(sorted(p.name for p in folder.glob("*"))) or "none"
        raise PipelineError(
            f"{path}: there is no split '{name}' (found: {known}); run `dvc repro tokenize`"
        )
    try:
        split = load_from_disk(str(path))
        # Arrow files are mapped: a damaged one would only be met when its rows are read.
        if not {"input_ids", "target_start"} <= set(split.column_names) or len(split) == 0:
            raise ValueError("no tokenized examples")
        split[len(split) - 1]
    except Exception as error:  # datasets and pyarrow raise all kinds for a damaged file
        raise PipelineError(
            f"{path}: is damaged ({first_line(error)}); run `dvc repro --force tokenize`"
        ) from error
    return split
