"""A person's data files: which split each is, its examples, and the files of the project."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.project.columns import words_of
from pipeline.project.splitting import Example
from pipeline.sources.formats.text import COMPRESSED
from pipeline.sources.one_file import read_file
from pipeline.sources.rows import Row
from pipeline.storage.records import write_jsonl

Given = dict[str, tuple[Path, list[Row]]]
"""By its split, or `WHOLE`, each file and its rows."""

WHOLE = "whole"
"""The one file that is still to be split."""

_NAMES = {
    "test_unseen": ("test_unseen", "unseen", "ood", "test_ood"),
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


def read_files(paths: Sequence[Path]) -> Given:
    """The rows of each split's file; of one file without a split's name those of `WHOLE`.

    Raises PipelineError for a file that cannot be read, and for several that do not tell which
    split they are.
    """
    if len(paths) == 1 and _split_of(paths[0]) in (None, "train"):
        return {WHOLE: (paths[0], _rows(paths[0]))}
    found: Given = {}
    for path in paths:
        split = _split_of(path)
        if split is None:
            raise PipelineError(
                f"--data: '{path}' does not say in its name which split it is; name several files "
                "after train, validation (or dev), test or test_unseen, or give one alone"
            )
        if split in found:
            raise PipelineError(
                f"--data: '{found[split][0]}' and '{path}' are both {split}; give one file a split"
            )
        found[split] = (path, _rows(path))
    if "train" not in found:
        raise PipelineError(
            f"--data: none of {', '.join(map(str, paths))} is named after train; name the file to "
            "train on, or give it alone"
        )
    return found


def write_files(
    folder: Path, given: Given, splits: Mapping[str, Sequence[Example]]
) -> dict[str, str]:
    """Write a file for each split into `folder`; their names.

    A split that was given as a file is copied as it is, the others are written as JSON lines.
    """
    folder.mkdir(parents=True)
    names = {}
    is_divided = splits.keys() != given.keys()
    for split, examples in splits.items():
        if split in given and not (split == "train" and is_divided):
            source = given[split][0]
            names[split] = split + "".join(_suffixes(source))
            shutil.copyfile(source, folder / names[split])
        else:
            names[split] = f"{split}.jsonl"
            write_jsonl(folder / names[split], (example.row for example in examples))
    return names


def _rows(path: Path) -> list[Row]:
    return list(read_file(path, "--data"))


def _split_of(path: Path) -> str | None:
    stem = words_of(path.name.removesuffix("".join(_suffixes(path))))
    for split, names in _NAMES.items():
        if any(re.search(rf"(^|_){name}(_|$)", stem) for name in names):
            return split
    return None


def _suffixes(path: Path) -> list[str]:
    """The suffixes that say what a file holds: `.csv`, or `.csv` and `.gz`."""
    suffixes = path.suffixes
    return suffixes[-2:] if suffixes and suffixes[-1].lower() in COMPRESSED else suffixes[-1:]
