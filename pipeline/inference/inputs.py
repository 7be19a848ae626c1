"""The inputs of `python -m pipeline generate`: an argument, a file, or standard input."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

Input = str | Mapping[str, Any]
"""A text as `task.input_template` would render it, or a row of data to render by it."""


def inputs_of_file(path: Path) -> list[Input]:
    """The inputs in a file, one a line.

    `.jsonl` and `.json` hold JSON: an object is a row of data, a string a text. Any other file
    holds texts. Blank lines are skipped. Raises PipelineError naming a line that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise PipelineError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    # Not splitlines(): text may hold U+2028, which ends no JSON line.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise PipelineError(f"{path}: is empty; put an input on each line")
    if path.suffix in (".jsonl", ".json"):
        return [parse_row(line, f"{path}, line {number}") for number, line in lines]
    return [line for _, line in lines]


def parse_row(text: str, where: str) -> Input:
    """A JSON object (a row of data) or string (a text). Raises PipelineError for anything else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}: is no JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(value, str | dict):
        raise PipelineError(
            f"{where}: is a JSON {type(value).__name__}; an object (a row of data) or a string "
            "(a text) is needed"
        )
    return value
