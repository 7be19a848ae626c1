"""The tables and pictures of results, and where the document has them."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.curves import draw_curves
from benchmarks.quality.differences import differences
from benchmarks.quality.plot import draw
from benchmarks.quality.results import Line
from benchmarks.quality.study import read_study
from benchmarks.quality.table import as_markdown, failures, frame, markdown
from benchmarks.quality.trials import Base, trials_of
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
        apart = differences(study, table)
        section += [] if apart.empty else [as_markdown(apart)]
        pictures = page.with_suffix("")
        if study.plot is not None and not table.empty:
            draw(study.plot, study.question, table, pictures / f"{name}.png")
            section.append(f"![{study.question}]({pictures.name}/{name}.png)")
        if study.curves is not None and draw_curves(
            study.curves, study.question, trials, lines, pictures / f"{name}_curves.png"
        ):
            section.append(f"![Losses by pass]({pictures.name}/{name}_curves.png)")
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
