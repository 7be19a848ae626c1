"""The tables and pictures of results, and where the document has them."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.plot import draw
from benchmarks.quality.results import Line
from benchmarks.quality.table import failures, frame, markdown
from benchmarks.quality.trials import Base, read_study, trials_of
from pipeline.storage.records import read_text, write_text


def show(studies: Sequence[Path], lines: Sequence[Line], page: Path, base: Base) -> str:
    """The tables of studies that have results, as Markdown; their pictures lie beside the page.

    Where the page has a place for a study's table, it is put there.
    """
    text = read_text(page) if page.exists() else ""
    found = []
    for path in studies:
        study, name = read_study(path), path.stem
        trials = [trial for _, trial in trials_of(path, study, base)]
        table = frame(study, trials, lines)
        section = [] if table.empty else [markdown(table)]
        if study.plot is not None and not table.empty:
            picture = page.with_suffix("") / f"{name}.png"
            draw(study.plot, study.question, table, picture)
            section.append(f"![{study.question}]({picture.relative_to(page.parent).as_posix()})")
        section += [f"Failed: {sentence}" for sentence in failures(trials, lines)]
        if section:
            text = _put(text, name, "\n\n".join(section))
            found.append(f"## {study.question}\n\n" + "\n\n".join(section))
    if page.exists():
        write_text(page, text)
    return "\n\n".join(found) or "no trial of these studies has results"


def _put(text: str, name: str, section: str) -> str:
    marks = rf"(<!-- {name} begins\. -->\n).*?(<!-- {name} ends\. -->)"
    return re.sub(marks, lambda m: f"{m[1]}\n{section}\n\n{m[2]}", text, flags=re.DOTALL)
