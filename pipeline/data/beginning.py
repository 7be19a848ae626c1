"""Where the token that begins a text (BOS) stands: once, first of all that the model reads.

A tokenized input holds it, as the frozen model reads that input alone. After a prefix that begins
a text itself (the KV cache of one) an input goes on without it.
"""

from typing import Any

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar


def following(split: Dataset, begins_text: bool) -> Dataset:
    """A tokenized split as it follows a prefix that begins a text, or does not.

    The split itself where there is nothing to leave out; else one in memory.
    """
    if not begins_text or "beginning" not in split.column_names:
        return split
    disable_progress_bar()
    # In memory: datasets would write its copy beside the split, into what DVC watches.
    return split.map(_without_beginning, keep_in_memory=True, load_from_cache_file=False)


def _without_beginning(row: dict[str, Any]) -> dict[str, Any]:
    count = row["beginning"]
    changes = {
        "input_ids": row["input_ids"][count:],
        "target_start": row["target_start"] - count,
        "beginning": 0,
    }
    if row.get("positions") is not None:
        changes["positions"] = [position - count for position in row["positions"]]
    return changes
