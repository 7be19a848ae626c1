"""A split whose examples are read with something else before their targets."""

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar

from pipeline.data.rows import TokenizedRows, rows_of
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS


def tokens_added(split: Dataset, changed: Dataset | TokenizedRows) -> int:
    """The tokens that a split's examples have more in all as they were rewritten."""
    before, after = (rows_of(one, ["input_ids"]).tokens.sum() for one in (split, changed))
    return int(after - before)


def rewritten(split: Dataset, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Dataset:
    """A tokenized split in memory, with other `input_ids` and `target_start` for each row."""
    disable_progress_bar()
    apart = [name for name in (TEACHER_IDS, TEACHER_LOG_PROBS) if name in split.column_names]
    columns = [name for name in split.column_names if name not in ("beginning", *apart)]
    # Named, so that datasets hashes no tokenizer to name it itself.
    changed = split.select_columns(columns).map(
        change, keep_in_memory=True, load_from_cache_file=False, new_fingerprint="rewritten"
    )
    if not apart:
        return changed
    # A teacher's predictions stay in their files.
    return concatenate_datasets([changed, split.select_columns(apart)], axis=1)
