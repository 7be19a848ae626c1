"""Rows of a self-study, and a person's own questions for the test."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.config.data import CorpusData
from pipeline.corpus.questions import normalized
from pipeline.errors import PipelineError
from pipeline.sources.held_out import COLUMNS, SPLITS
from pipeline.sources.one_file import read_file
from pipeline.sources.rows import Row, Rows
from pipeline.workspace import paths


def corpus_rows(params: CorpusData, _: Path) -> dict[str, Rows]:
    """`train` and `validation` of a self-study, `test` and `test_unseen` of what is held out.

    Rows of a self-study whose question is one of the test's, but for case, punctuation and white
    space, are left out and counted. Columns that a held-out row has not, as `context`, are null.

    Raises:
        PipelineError: when a file is missing, unreadable or without rows, or nothing is left of a
            split.
    """
    folder = Path(params.path)
    held_out = {
        split: read_file(path, "data.path")
        for split in SPLITS
        if (path := folder / paths.HELD_OUT / f"{split}.jsonl").exists()
    }
    if "test" not in held_out:
        raise PipelineError(
            f"data.path: '{folder}' has no {paths.HELD_OUT}/test.jsonl; name the folder of a "
            "self-study, data/self_study/<name>"
        )
    return studied_rows(folder, held_out, "data.path") | held_out


def studied_rows(folder: Path, held_out: Mapping[str, Rows], key: str) -> dict[str, Rows]:
    """`train` and `validation` of a self-study's folder, without the questions that are held out.

    Raises PipelineError, naming `key`, as `corpus_rows`.
    """
    tested = {normalized(str(row["question"])) for rows in held_out.values() for row in rows}
    splits: dict[str, Rows] = {}
    for split in ("train", "validation"):
        own = read_file(folder / f"{split}.jsonl", key)
        left = Rows.counted(partial(_without, own, tested))
        print(
            f"{split}: {own.count - left.count} of {own.count} questions are those of the test, "
            "and left out"
        )
        if not left.count:
            raise PipelineError(
                f"{key}: all questions of {split} in '{folder}' are those of the test; raise "
                "questions_per_chunk of the self-study"
            )
        splits[split] = replace(left, optional=frozenset(left.columns) - {"id", *COLUMNS})
    return splits


def _without(rows: Iterable[Row], tested: set[str]) -> Iterator[Row]:
    return (row for row in rows if normalized(str(row["question"])) not in tested)
