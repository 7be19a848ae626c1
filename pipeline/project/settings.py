"""params.yaml of a new project: the default one, over it what the data ask for, each guess told."""

import io
import re
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pipeline.config.compose import composed

_WIDTH = 100


def params_text(base: Path, sections: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """The text of the params in `base` with other values, and above keys what is said of them.

    `sections` is what differs, as an example of `examples/` says it; `comments` are sentences by
    `section` or `section.key`.
    """
    into = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 10_000
    yaml.dump(_on_one_line(sections), into)
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder) / "project.yaml"
        example.write_text(into.getvalue(), encoding="utf-8")
        return _annotated(composed(base, example), comments)


def _on_one_line(value: Any) -> Any:
    """The same with each list on one line."""
    if isinstance(value, Mapping):
        return {key: _on_one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        items = CommentedSeq(value)
        items.fa.set_flow_style()
        return items
    return value


def _annotated(text: str, comments: Mapping[str, str]) -> str:
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if (found := re.match(r"([A-Za-z_]\w*):", line)) is not None:
            section = found[1]
            lines.append(line)
            lines += _comment(comments.get(section), "  ")
            continue
        if section and (key := re.match(r"  ([A-Za-z_]\w*):", line)) is not None:
            lines += _comment(comments.get(f"{section}.{key[1]}"), "  ")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comment(sentence: str | None, indent: str) -> list[str]:
    if sentence is None:
        return []
    mark = f"{indent}# "
    # A column's name may hold anything, and a comment is one line.
    plain = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    return textwrap.wrap(
        plain, _WIDTH, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False
    )
