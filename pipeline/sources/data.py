"""The raw splits from whatever source, as JSON lines."""

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.data import CorpusData, DataParams, FactbookData, FileData, HubData
from pipeline.data.seen import Seen
from pipeline.errors import PipelineError
from pipeline.sources.corpus import corpus_rows
from pipeline.sources.factbook import factbook_rows
from pipeline.sources.files import file_rows
from pipeline.sources.hub import at_commit, hub_rows
from pipeline.sources.rows import Row, Rows
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_jsonl
from pipeline.workspace import paths

# A source of data is a class of `pipeline.config.data` and a row here.
_ROWS: dict[type, Callable[[Any, Path], dict[str, Rows]]] = {
    FactbookData: factbook_rows,
    FileData: file_rows,
    HubData: hub_rows,
    CorpusData: corpus_rows,
}
_MOVED = "source_id"


def fetch_data(params: DataParams, folder: Path) -> None:
    """Write `<split>.jsonl` for each split there is: an `id`, then the source's own columns.

    Rows pass one by one and are not held in memory. Of a data set of the Hub `source.json` says
    from which commit they are.

    Raises:
        PipelineError: whatever the source refuses, and a split without rows.
    """
    if isinstance(params, HubData):
        params = at_commit(params)
    with tempfile.TemporaryDirectory(prefix="data-") as scratch, atomic_folder(folder) as aside:
        splits = _ROWS[type(params)](params, Path(scratch))
        # What not every row of training has may be missing in all rows of another split.
        optional = splits["train"].optional
        for split, found in splits.items():
            rows = found.with_nulls(c for c in splits["train"].columns if c in optional)
            if not rows.count:
                raise PipelineError(f"data: the split '{split}' has no rows")
            kept = _Sample(rows, getattr(params.max_examples, split), params.seed)
            write_jsonl(aside / f"{split}.jsonl", _with_ids(kept, rows.columns, split))
            print(f"{split}: {len(kept)} of {rows.count} examples")
        if isinstance(params, HubData):
            write_json(aside / paths.SOURCE, {"id": params.id, "commit": params.revision})


@dataclass(frozen=True)
class _Sample:
    """A seeded sample in the rows' own order; a larger sample holds every smaller one."""

    rows: Rows
    most: int | None
    seed: int

    def __len__(self) -> int:
        return self.rows.count if self.most is None else min(self.most, self.rows.count)

    def __iter__(self) -> Iterator[Row]:
        if len(self) == self.rows.count:
            yield from self.rows
            return
        order = list(range(self.rows.count))
        random.Random(self.seed).shuffle(order)
        chosen = set(order[: len(self)])
        yield from (row for index, row in enumerate(self.rows) if index in chosen)


def _with_ids(rows: _Sample, columns: tuple[str, ...], split: str) -> Iterator[Row]:
    """Every row with an `id` of its own as text; those of the source, where each row has one.

    Where they do not tell rows apart they move to `source_id`, and rows are numbered.
    """
    if "id" not in columns:
        for index, row in enumerate(rows):
            yield {"id": f"{split}-{index}", **row}
        return
    if _tell_apart(rows):
        for row in rows:
            yield {"id": str(row["id"]), **{k: v for k, v in row.items() if k != "id"}}
        return
    if _MOVED in columns:
        raise PipelineError(
            f"data: the column 'id' of {split} does not tell its rows apart, and there is a column "
            f"'{_MOVED}' already; rename 'id'"
        )
    print(
        f"warning: {split}: the column 'id' does not tell rows apart; it is '{_MOVED}' now, and "
        f"rows are numbered {split}-0, {split}-1, ...",
        file=sys.stderr,
    )
    for index, row in enumerate(rows):
        own = {(_MOVED if k == "id" else k): v for k, v in row.items()}
        yield {"id": f"{split}-{index}", **own}


def _tell_apart(rows: _Sample) -> bool:
    seen = Seen()
    for row in rows:
        own = row["id"]
        if not isinstance(own, str | int) or isinstance(own, bool):
            return False
        seen.add(str(own))
    return seen.are_distinct()
