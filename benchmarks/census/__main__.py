"""`python -m benchmarks.census`: every causal model type that transformers knows, with a prefix."""

import contextlib
import difflib
import json
import os
import sys
from dataclasses import asdict

import click

from benchmarks.census.examination import Found
from benchmarks.census.rows import GROUPS, Row, all_rows, shard_of
from benchmarks.census.running import run
from benchmarks.census.table import page_of, summary_of, write_page
from benchmarks.census.verdicts import FAILED
from pipeline.progress.bar import Bar

_STOPPED = 130
"""The exit code of a shell for what Ctrl-C ended."""


class Shard(click.ParamType):
    """`2/3`, the second of three parts."""

    name = "I/N"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The part and the number of parts."""
        index, _, count = value.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is no part of a whole; 1/3 is the first of three", param, ctx)
        return int(index), int(count)


@click.command()
@click.option(
    "--group", "groups", multiple=True, type=click.Choice(list(GROUPS)), help="Some groups alone."
)
@click.option("--only", multiple=True, metavar="NAME", help="A model type, or a row by its name.")
@click.option("--shard", type=Shard(), help="A part of the rows; 1/N has one of each family.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="a process for each core",
    help="Rows at once.",
)
@click.option(
    "--limit", type=click.FloatRange(1), default=60, show_default=True, help="Seconds a row."
)
@click.option("--peft/--no-peft", default=True, help="Try PEFT's prefix tuning beside.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in the place of tables.")
@click.option("--write", is_flag=True, help="Put the rows into docs/architectures.md.")
@click.option("--list", "lists", is_flag=True, help="Print the rows' names, and try none.")
def main(
    groups: tuple[str, ...],
    only: tuple[str, ...],
    shard: tuple[int, int] | None,
    jobs: int,
    limit: float,
    peft: bool,
    as_json: bool,
    write: bool,
    lists: bool,
) -> None:
    """Try a prefix on a tiny random model of every causal type, and print what came of it.

    The exit code is 1 when a row failed: a wrong number or a traceback. Ctrl-C shows what was found
    so far.

    \b
    Example: python -m benchmarks.census --only qwen3_next --only gemma3
    """
    if write and not peft:
        raise click.UsageError("--write needs PEFT's column; leave --no-peft out")
    rows = [row for row in all_rows() if not groups or row.group in groups]
    rows = _named(rows, only) if only else rows
    rows = shard_of(rows, *shard) if shard else rows
    if lists:
        click.echo("\n".join(f"{row.group}: {row.name}" for row in rows))
        return
    found = _shown(rows, jobs, limit, peft)
    if write:
        write_page(found, whole=len(found) == len(all_rows()))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    elif write:
        click.echo(summary_of(found))
    else:
        click.echo(page_of(found))
    failed = any(one.verdict.word == FAILED for one in found)
    sys.exit(int(failed) if len(found) == len(rows) else _STOPPED)


def _named(rows: list[Row], names: tuple[str, ...]) -> list[Row]:
    known = {row.name for row in rows} | {row.model_type for row in rows}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            more = f"; did you mean {near[0]}?" if near else "; --list has the names"
            raise click.UsageError(f"no row is called {name}{more}")
    return [row for row in rows if row.name in names or row.model_type in names]


def _shown(rows: list[Row], jobs: int, limit: float, peft: bool) -> list[Found]:
    """What is found, in the order of the rows, with a bar meanwhile; Ctrl-C ends it early."""
    places = {(row.group, row.name): place for place, row in enumerate(rows)}
    found = []
    with Bar(len(rows), "census", "row") as bar, contextlib.suppress(KeyboardInterrupt):
        for one in run(rows, jobs, limit, peft):
            found.append(one)
            bar.update(note=f"{one.name}: {one.verdict.word}")
    return sorted(found, key=lambda one: places[one.group, one.name])


if __name__ == "__main__":
    main()
