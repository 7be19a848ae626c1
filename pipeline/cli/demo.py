"""`python -m pipeline demo`: a first result, long before the sweep's."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click

from pipeline.cli.names import complete_sweep
from pipeline.config import Params, load_params
from pipeline.errors import PipelineError
from pipeline.preflight.files import check_files
from pipeline.standing.first import soonest_to_tell, variant_named
from pipeline.sweep.variants import Variant


@click.command()
@click.option(
    "--variant",
    metavar="NAME",
    shell_complete=complete_sweep,
    help="A variant of params.yaml, such as len8-random-seed0.  [default: of those that start from "
    "a text, one with the longest prefix]",
)
@click.option(
    "--questions",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="How many examples of the first reported split both answer.",
)
def demo(variant: str | None, questions: int) -> None:
    """Train one variant, and show what it answers beside the bare model.

    Runs the stages of that one variant as `dvc repro` does, which finds them done afterwards: the
    demo is the first part of the sweep. What is up to date is not run again.

    \b
    python -m pipeline demo
    python -m pipeline demo --variant len8-demonstrations-seed0 --questions 50
    """
    params = load_params()
    check_files(params)
    chosen = soonest_to_tell(params) if variant is None else variant_named(params, variant)
    click.echo(f"{chosen.name}, one variant of params.yaml:", err=True)
    _repro(chosen)
    click.echo("asking both ...", err=True)
    from pipeline.inference.side_by_side import side_by_side

    result = side_by_side(params, chosen, questions)
    click.echo(f"\n{result.answers()}\n\n{result.figures()}\n\n{_next(params, chosen)}")


def _repro(variant: Variant) -> None:
    """Bring a variant's training up to date, with a line for each stage that runs."""
    # Where no environment is active, stages find the `python` that runs this.
    path = os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent)))
    began = time.monotonic()
    # DVC tells on standard output; bars, warnings and mistakes of stages are on standard error.
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", variant.dvc_stage],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if found := re.match(r"Running stage '(.+)':", line):
                click.echo(f"  {time.monotonic() - began:3.0f} s  {found[1]}", err=True)
    if running.returncode != 0:
        raise PipelineError(
            f"`dvc repro {variant.dvc_stage}` stopped, for the reason above; mend it and start the "
            "demo again: what is finished is kept"
        )


def _next(params: Params, variant: Variant) -> str:
    # A project of `init` has no Makefile.
    has_make = Path("Makefile").is_file()
    steps = [
        (
            "make repro" if has_make else "dvc repro",
            "trains and measures the rest of params.yaml, and compares all",
        ),
        ("make ui" if has_make else "python -m pipeline ui", "shows the runs in MLflow"),
    ]
    if not params.task.is_classification:
        asking = f'python -m pipeline generate "..." --variant {variant.name}'
        steps.append((asking, "answers a text of your own"))
    return "\n".join(["Next:", *(f"  {command}\n      {what}" for command, what in steps)])
