"""A teacher's predictions on disk, beside the tokenized splits that they are of.

Arrow files through `datasets`, a row an example in the order of the split: its `id`, and for each
token of its target the k tokens that the teacher holds most likely there, `token_ids` int32
`[targets, k]`, with their natural logarithms of probability, `log_probs` float32 `[targets, k]`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from datasets.arrow_writer import ArrowWriter
from datasets.utils.logging import disable_progress_bar

from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import write_split
from pipeline.errors import PipelineError, first_line

BYTES = 8
"""What one token and its log-probability take."""

TEACHER_IDS, TEACHER_LOG_PROBS = "teacher_ids", "teacher_log_probs"
"""The columns of an example that has its teacher's predictions: `[targets, k]` each."""

_IDS, _LOG_PROBS = "token_ids", "log_probs"

Portion = tuple[list[str], np.ndarray, np.ndarray, np.ndarray]
"""Examples' ids, the targets of each, and of all targets one after another `[targets, k]` each."""


def save_predictions(portions: Iterable[Portion], top_k: int, folder: Path) -> None:
    """Write one split's predictions as `datasets` does, a portion at a time, with stable bytes."""
    features = Features(
        {
            "id": Value("string"),
            _IDS: List(List(Value("int32"), length=top_k)),
            _LOG_PROBS: List(List(Value("float32"), length=top_k)),
        }
    )

    def write(writer: ArrowWriter) -> None:
        for names, targets, ids, log_probs in portions:
            offsets = np.concatenate([[0], targets]).cumsum().astype(np.int32)
            columns = [
                pa.ListArray.from_arrays(
                    pa.array(offsets), pa.FixedSizeListArray.from_arrays(pa.array(flat), top_k)
                )
                for flat in (ids.reshape(-1), log_probs.reshape(-1))
            ]
            writer.write_table(
                pa.Table.from_arrays(
                    [pa.array(names, pa.string()), *columns], schema=features.arrow_schema
                )
            )

    disable_progress_bar()
    write_split(folder, features, write)


def with_predictions(split: Dataset, folder: Path, name: str) -> Dataset:
    """A tokenized split with its teacher's predictions as the columns that a loss reads.

    Nothing is read but the ids. Raises PipelineError when they are missing, damaged, or of other
    examples.
    """
    path = folder / name
    again = f"run `dvc repro teach@{folder.name}`"
    if not path.exists():
        raise PipelineError(f"{path}: is not there; {again}")
    try:
        found = load_from_disk(str(path))
        # Mapped: a damaged file would only be met when its rows are read.
        found[len(found) - 1]
        targets = pc.list_value_length(found.data.column(_IDS)).to_numpy()
    except Exception as error:  # datasets and pyarrow raise all kinds for a damaged file
        raise PipelineError(f"{path}: is damaged ({first_line(error)}); {again}") from error
    rows = TokenizedRows(split, ["input_ids", "target_start"])
    are_theirs = found.data.column("id").equals(split.data.column("id"))
    if not are_theirs or (targets != rows.tokens - rows.target_starts).any():
        raise PipelineError(f"{path}: is of other examples than the tokenized splits; {again}")
    renamed = found.remove_columns("id").rename_columns(
        {_IDS: TEACHER_IDS, _LOG_PROBS: TEACHER_LOG_PROBS}
    )
    return concatenate_datasets([split, renamed], axis=1)
