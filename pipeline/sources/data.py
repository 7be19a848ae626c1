"""The raw splits from whatever source, as JSON lines."""

import random
from pathlib import Path
from typing import Any

from pipeline.config.data import DataParams, FactbookData, FileData, SplitSizes
from pipeline.errors import PipelineError
from pipeline.sources.factbook import factbook_rows
from pipeline.sources.tabular import file_rows, hub_rows
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_jsonl

Row = dict[str, Any]


def fetch_data(params: DataParams, folder: Path) -> None:
    """Write `<split>.jsonl` for each split there is: an `id`, then the source's own columns.

    Raises:
        PipelineError: whatever the source refuses, and a split without rows.
    """
    if isinstance(params, FactbookData):
        splits = factbook_rows(params)
    elif isinstance(params, FileData):
        splits = file_rows(params)
    else:
        splits = hub_rows(params)
    with atomic_folder(folder) as aside:
        for split, rows in splits.items():
            if not rows:
                raise PipelineError(f"data: the split '{split}' has no rows")
            kept = _at_most(rows, params.max_examples, split, params.seed)
            write_jsonl(aside / f"{split}.jsonl", _with_ids(kept, split))
            print(f"{split}: {len(kept)} of {len(rows)} examples")


def _at_most(rows: list[Row], sizes: SplitSizes, split: str, seed: int) -> list[Row]:
    """A seeded sample in the rows' own order; a larger sample holds every smaller one."""
    most = getattr(sizes, split)
    if most is None or most >= len(rows):
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[index] for index in sorted(order[:most])]


def _with_ids(rows: list[Row], split: str) -> list[Row]:
    """Every row with an `id` of its own; ids of the source stay when no two are the same."""
    ids = [row.get("id") for row in rows]
    if None not in ids and len(set(map(str, ids))) == len(rows):
        return [
            {"id": str(row["id"]), **{k: v for k, v in row.items() if k != "id"}} for row in rows
        ]
    return [
        {"id": f"{split}-{index}", **{k: v for k, v in row.items() if k != "id"}}
        for index, row in enumerate(rows)
    ]
