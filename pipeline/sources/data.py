"""The raw splits from whatever source, as JSON lines."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.data import DataParams, FactbookData, FileData, HubData, SplitSizes
from pipeline.errors import PipelineError
from pipeline.sources.factbook import factbook_rows
from pipeline.sources.files import file_rows
from pipeline.sources.hub import at_commit, hub_rows
from pipeline.sources.plain import Row
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_jsonl
from pipeline.workspace import paths

# A source of data is a class of `pipeline.config.data` and a row here.
_ROWS: dict[type, Callable[[Any], dict[str, list[Row]]]] = {
    FactbookData: factbook_rows,
    FileData: file_rows,
    HubData: hub_rows,
}


def fetch_data(params: DataParams, folder: Path) -> None:
    """Write `<split>.jsonl` for each split there is: an `id`, then the source's own columns.

    Of a data set of the Hub `source.json` says from which commit they are.

    Raises:
        PipelineError: whatever the source refuses, and a split without rows.
    """
    if isinstance(params, HubData):
        params = at_commit(params)
    splits = _ROWS[type(params)](params)
    with atomic_folder(folder) as aside:
        for split, rows in splits.items():
            if not rows:
                raise PipelineError(f"data: the split '{split}' has no rows")
            kept = _at_most(rows, params.max_examples, split, params.seed)
            write_jsonl(aside / f"{split}.jsonl", _with_ids(kept, split))
            print(f"{split}: {len(kept)} of {len(rows)} examples")
        if isinstance(params, HubData):
            write_json(aside / paths.SOURCE, {"id": params.id, "commit": params.revision})


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
