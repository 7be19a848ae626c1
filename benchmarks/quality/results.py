"""The lines of results: a JSON object a trial, written as soon as there is one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The lines of a file, none where there is none; one that was cut off is left out."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def line_of(identity: dict[str, Any], lines: Sequence[Line]) -> Line | None:
    """The last line of a trial that did not fail, if there is one."""
    done = (line for line in reversed(lines) if "error" not in line)
    return next((line for line in done if line["trial"] == identity), None)


def appending(path: Path) -> Callable[[Line], None]:
    """What adds a line to a file at once, after one that was cut off on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.read_bytes() if path.exists() else b""
    if written and not written.endswith(b"\n"):
        path.write_bytes(written + b"\n")

    def write(line: Line) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    return write
