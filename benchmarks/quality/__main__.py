"""`python -m benchmarks.quality`: what limits prefix tuning beside LoRA, in many trainings."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import click
from ruamel.yaml import YAML

from benchmarks.quality.results import Line, appending, read_lines
from benchmarks.quality.study import STUDIES
from benchmarks.quality.trials import Base, Trial, in_order
from pipeline.errors import PipelineError

_RESULTS = Path("benchmarks/results/quality")
_PAGE = Path("docs/quality.md")


@click.command()
@click.argument("studies", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="At once.")
@click.option("--seconds", type=float, default=math.inf, help="No trial goes on for longer.")
@click.option("--output", type=Path, default=_RESULTS / "results.jsonl", show_default=True)
@click.option("--folder", type=Path, default=_RESULTS / "data", help="Of model, data and starts.")
@click.option("--set", "own", multiple=True, metavar="KEY=VALUE", help="A key of all params.")
@click.option("--list", "lists", is_flag=True, help="Print the trials in their order, run none.")
@click.option("--tables", type=click.Path(exists=True, path_type=Path), help="Show such results.")
@click.option("--page", type=Path, default=_PAGE, show_default=True, help="What --tables fills.")
def main(
    studies: tuple[Path, ...],
    device: str,
    processes: int,
    seconds: float,
    output: Path,
    folder: Path,
    own: tuple[str, ...],
    lists: bool,
    tables: Path | None,
    page: Path,
) -> None:
    """Run the trials of STUDIES, by default all in benchmarks/quality/studies.

    Each comes to a line of OUTPUT as soon as it is done; those that have one already are not run
    again, so that a run which was cut off goes on. A trial that fails is a line with its error.

    \b
    Example: python -m benchmarks.quality benchmarks/quality/studies/epochs.yaml --device cuda
    """
    began = time.monotonic()
    try:
        base = Base({**_on(device), **dict(map(_key, own))})
        paths = list(studies) or sorted(STUDIES.glob("*.yaml"))
        if tables is not None:
            from benchmarks.quality.page import show

            click.echo(show(paths, read_lines(tables), page, base))
            return
        trials = in_order(paths, base)
        if lists:
            click.echo("\n".join(str(trial.identity) for trial in trials))
            click.echo(f"{len(trials)} trials")
            return
        _run(trials, processes, folder, output, began, seconds)
    except PipelineError as error:
        raise click.ClickException(str(error)) from error


def _run(
    trials: Sequence[Trial],
    processes: int,
    folder: Path,
    output: Path,
    began: float,
    seconds: float,
) -> None:
    from benchmarks.quality.folder import within, write_data, write_model, write_starts
    from benchmarks.quality.workers import run_all
    from pipeline.data.splits import load_split
    from pipeline.workspace import paths

    done = [line["trial"] for line in read_lines(output) if "error" not in line]
    left = [trial for trial in trials if trial.identity not in done]
    click.echo(f"{len(trials)} trials, {len(trials) - len(left)} of them done")
    if not left:
        return
    append = appending(output.absolute())

    def write(line: Line) -> None:
        append(line)
        what = line.get("error") or {split: own["loss"] for split, own in line["scores"].items()}
        click.echo(f"{time.monotonic() - began:.0f} s: {line['trial']}: {what}")

    def prepare() -> int:
        write_data(left[0].params)
        write_starts(left, trials)
        return len(load_split(paths.TOKENIZED / "splits", "train"))

    with within(folder):
        write_model(left[0].params)
        skipped = run_all(left, processes, Path.cwd(), prepare, began + seconds, write)
    click.echo(f"{len(left) - len(skipped)} trials run, {len(skipped)} left for another time")


def _on(device: str) -> dict[str, str]:
    return {f"{section}.device": device for section in ("kv_prefix", "train", "evaluate")}


def _key(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    return key, YAML(typ="safe").load(value)


if __name__ == "__main__":
    main()
