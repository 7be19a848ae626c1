"""What was found as Markdown, and its place in the documents."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import peft
import transformers

from benchmarks.census.examination import Found
from benchmarks.census.rows import GROUPS
from benchmarks.census.verdicts import WORDS, Verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
BEGIN, END = "<!-- The census begins. -->\n", "<!-- The census ends. -->\n"

_INTRODUCTION = """\
Made by `python -m benchmarks.census --write` (`make census`) with transformers {transformers} and
PEFT {peft}: every type in the library's own mapping of causal models, tiny and random, in float32,
each in a process of its own. A row compares a prefix from the keys and values (and states) of a
text of 12 tokens with the text in the context, in windows of 8 tokens: the logits of what follows,
greedy generation, batches padded on the left, rows packed without padding, and a training step,
whose gradient has to reach every layer's prefix.

- exact: every logit to 1e-4.
- exact with a caveat: but for what the last column names.
- refused: there is no prefix, and the last column is what a user is told.
- failed: a wrong number or a traceback, which is a bug.
- not measured: the type cannot be made small or does not run on what the row gives it.

"""


def page_of(found: Iterable[Found]) -> str:
    """The census's section of the page: a summary and a table for each group."""
    found = list(found)
    versions = {"transformers": transformers.__version__, "peft": peft.__version__}
    parts = [_INTRODUCTION.format(**versions)]
    for group, title in GROUPS.items():
        if rows := [one for one in found if one.group == group]:
            parts.append(f"### {title}\n\n{summary_of(rows)}\n\n{table_of(rows)}\n")
    return "".join(parts)


def summary_of(rows: list[Found]) -> str:
    """How many of each verdict, in a line."""
    counts = Counter(row.verdict.word for row in rows)
    peft_counts = Counter(row.peft.word for row in rows if row.peft is not None)
    ours = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    theirs = ", ".join(f"{count} {word}" for word, count in sorted(peft_counts.items()))
    return f"Of {len(rows)}: {ours}." + (f" PEFT: {theirs}." if theirs else "")


def table_of(rows: list[Found]) -> str:
    """A row each, by name."""
    head = [
        "model",
        "this project",
        "largest error",
        "padding",
        "packed rows",
        "PEFT",
        "what to know",
    ]
    lines = [head, ["---"] * len(head)]
    lines += [_line(row) for row in sorted(rows, key=lambda row: row.name)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(row: Found) -> list[str]:
    verdict = row.verdict
    error = "" if verdict.error is None else f"{verdict.error:.0e}"
    theirs = "" if row.peft is None else _told(row.peft)
    said = verdict.why.replace("|", "\\|").replace("<", "&lt;")
    return [row.name, verdict.word, error, verdict.padding, verdict.packed, theirs, said]


def _told(verdict: Verdict) -> str:
    return f"wrong: {verdict.why}" if verdict.word == "wrong" else verdict.word


def write_page(found: Iterable[Found], whole: bool = True, page: Path = PAGE) -> None:
    """Put the tables into the page, between its two marks; rows not found stay unless `whole`."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rows = {} if whole else read_page(page)
    rows |= {(one.group, one.name): one for one in found}
    section = page_of(rows.values())
    page.write_text(f"{before}{BEGIN}{section}{END}{after}", encoding="utf-8")


def read_page(page: Path = PAGE) -> dict[tuple[str, str], Found]:
    """The rows that the page has, by group and name."""
    text = page.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    titles = {title: group for group, title in GROUPS.items()}
    found, group = {}, ""
    for line in text.splitlines():
        if line.startswith("### "):
            group = titles[line.removeprefix("### ")]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) > 1 and cells[1] in WORDS:
            found[group, cells[0]] = _read(group, *cells)
    return found


def _read(
    group: str,
    name: str,
    word: str,
    error: str,
    padding: str,
    packed: str,
    theirs: str,
    said: str,
) -> Found:
    why = said.replace("\\|", "|").replace("&lt;", "<")
    verdict = Verdict(word, why, float(error) if error else None, padding, packed)
    told, _, wrong = theirs.partition(": ")
    return Found(name, group, verdict, Verdict(told, wrong) if told else None)
