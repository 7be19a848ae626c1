"""The tokenized splits on disk: Arrow files through `datasets`, with stable bytes."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, load_from_disk
from datasets.utils.logging import disable_progress_bar

from pipeline.data.example import TokenizedExample
from pipeline.data.task_type import CAUSAL_LM, TaskType
from pipeline.errors import PipelineError, first_line
from pipeline.storage.atomic import atomic_folder

# Columns that a split has where its examples do.
_OPTIONAL = {
    "positions": List(Value("int32")),
    "beginning": Value("int32"),
    "turns": Value("string"),
}


def save_splits(
    splits: dict[str, list[TokenizedExample]], folder: Path, task: TaskType = CAUSAL_LM
) -> None:
    """Write each split as `datasets` does, in place of whatever `folder` held."""
    disable_progress_bar()
    features = Features(
        {
            "id": Value("string"),
            "input_ids": List(Value("int32")),
            "target_start": Value("int32"),
            "input": Value("string"),
            "target": Value("string"),
            "references": List(Value("string")),
        }
    )
    present = {name for rows in splits.values() for row in rows for name in row}
    features.update({name: kind for name, kind in _OPTIONAL.items() if name in present})
    with atomic_folder(folder) as aside:
        task.save(aside)
        for name, rows in splits.items():
            columns: dict[str, list[Any]] = {
                column: [row[column] for row in rows]  # type: ignore[literal-required]
                for column in features
            }
            table = Dataset.from_dict(columns, features=features).data
            # datasets draws a random fingerprint where it cannot hash; content makes a stable one.
            digest = hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]
            Dataset(table, fingerprint=digest).save_to_disk(str(aside / name))


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


def length_statistics(splits: dict[str, list[TokenizedExample]]) -> dict[str, dict[str, float]]:
    """For each split the number of examples, and tokens of input and target (mean, p95, max)."""
    return {name: _statistics(rows) for name, rows in splits.items()}


def _statistics(rows: Sequence[TokenizedExample]) -> dict[str, float]:
    inputs = [row["target_start"] for row in rows]
    targets = [len(row["input_ids"]) - row["target_start"] for row in rows]
    return {
        "examples": len(rows),
        **_spread("input_tokens", inputs),
        **_spread("target_tokens", targets),
        "tokens_max": max(len(row["input_ids"]) for row in rows),
    }


def _spread(name: str, values: Iterable[int]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    mean = round(sum(ordered) / len(ordered), 2)
    return {f"{name}_mean": mean, f"{name}_p95": p95, f"{name}_max": ordered[-1]}
