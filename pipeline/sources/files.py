"""Rows from local files, one a split."""

from pathlib import Path

from pipeline.config.data import FileData
from pipeline.errors import PipelineError
from pipeline.sources.one_file import read_file
from pipeline.sources.rows import Rows


def file_rows(params: FileData, _: Path) -> dict[str, Rows]:
    """The rows of each split's file.

    Raises:
        PipelineError: when a file is missing, empty, of an unknown kind, unreadable, or has other
            columns than the training split.
    """
    files = {split: path for split, path in params.files.model_dump().items() if path is not None}
    splits = {split: read_file(Path(path), f"data.files.{split}") for split, path in files.items()}
    train = splits["train"]
    # A column without a name is mostly the index that a library wrote beside the data.
    needed = set(train.columns) - train.optional - {""}
    for split, rows in splits.items():
        missing = sorted(needed - set(rows.columns))
        if missing:
            raise PipelineError(
                f"data.files.{split}: '{files[split]}' lacks columns that the training split has: "
                f"{', '.join(missing)}"
            )
    return splits
