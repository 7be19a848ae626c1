"""`python -m pipeline init`: a new project with a person's own data."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.project.creation import Project

_FILE = click.Path(path_type=Path)
_MOST_SHOWN = 300


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("more", nargs=-1, type=_FILE, metavar="")
@click.option(
    "--data",
    multiple=True,
    type=_FILE,
    metavar="FILE...",
    help="CSV, TSV, JSON (lines or an array) or Parquet, compressed or not: one file, which is "
    "divided, or a file named after each of train, validation, test.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="COLUMN",
    help="What the model reads; several in their order.  [default: guessed]",
)
@click.option("--target", metavar="COLUMN", help="What it is to write.  [default: guessed]")
@click.option(
    "--task",
    type=click.Choice(["causal_lm", "seq2seq_lm", "seq_cls", "token_cls"]),
    help="As task.type in params.yaml.  [default: guessed]",
)
@click.option(
    "--model",
    envvar="PREFIX_TUNING_MODEL",
    show_envvar=True,
    metavar="ID|FOLDER",
    help="A model of the Hugging Face Hub, or a folder that save_pretrained wrote.  "
    "[default: SmolLM2-135M-Instruct]",
)
@click.option("--corpus", type=_FILE, help="A text file for prefixes to start from as well.")
@click.option("--name", help="The experiment's name in MLflow.  [default: FOLDER's name]")
@click.option("--force", is_flag=True, help="Write into a FOLDER that is not empty.")
def init(
    folder: Path,
    more: tuple[Path, ...],
    data: tuple[Path, ...],
    inputs: tuple[str, ...],
    target: str | None,
    task: str | None,
    model: str | None,
    corpus: Path | None,
    name: str | None,
    force: bool,
) -> None:
    """Write a project into FOLDER that compares prefixes on your own data.

    Columns, task and sizes are guessed from the data; each guess is printed, and stands in
    FOLDER/params.yaml above its key. The project has its own copy of the code, and its own git
    and DVC repository, in which `dvc repro` runs.

    \b
    python -m pipeline init my-project --data reviews.csv
    python -m pipeline init my-project --data train.jsonl dev.jsonl test.jsonl
    python -m pipeline init my-project --data faq.csv --input Question --target "Best answer"
    """
    if not data:
        raise click.UsageError("give --data, a file with an example a row")
    from pipeline.project.creation import Wishes, create

    wishes = Wishes(inputs, target, task, model, corpus, name)
    _tell(folder, create(folder, (*data, *more), wishes, force))


def _tell(folder: Path, project: "Project") -> None:
    from pipeline.project.sections import guesses_of

    click.echo(f"{folder}: a project, in which params.yaml has what was guessed:")
    for key, why in guesses_of(project.plan).items():
        click.echo(f"  {key}: {why}")
    click.echo(f"model: {project.plan.model.told}")
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in project.splits.items())
    divided = project.plan.divided
    click.echo(f"examples: {counts}" + (f", {divided}" if divided else ""))
    if project.plan.blank:
        click.echo(f"left out: {project.plan.blank} rows with an empty input or target")
    if project.shared:
        click.echo(f"warning: {project.shared} examples have an input that another split has too")
    for name in project.plan.task.nameless:
        click.echo(
            f"warning: '{_short(name)}' is taken for a column's name; if it is a value, give the "
            "file a first line with names"
        )
    click.echo("two of them, as the model reads and writes them:")
    for example in project.splits["train"][:2]:
        click.echo(f"  {_short(example.input)}\n    -> {_short(example.target)}")
    for sentence in (*project.steps, *project.checks):
        click.echo(sentence)
    click.echo(f"next: cd {folder} && dvc repro")


def _short(text: str) -> str:
    shown = repr(text)[1:-1]
    half = _MOST_SHOWN // 2
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:half]} ... {shown[-half:]}"
