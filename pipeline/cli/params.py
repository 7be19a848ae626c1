"""`python -m pipeline params`: a params.yaml out of the default and an example."""

from pathlib import Path

import click

from pipeline.config.compose import DEFAULT, compose, write_composed
from pipeline.storage.records import read_text
from pipeline.workspace.paths import PARAMS


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
def params(file: Path | None) -> None:
    """Write params.yaml: the default, with what FILE says in its place; without FILE the default.

    FILE holds only what differs, as those of examples/ do. Under initializations, baselines and
    trained_baselines, and under model and data of another source, what FILE writes is all; in any
    other section its keys replace the default's. The params.yaml before is kept beside it.
    """
    text = compose(file) if file else read_text(DEFAULT)
    what = f"the default with {file}" if file else "the default"
    if PARAMS.exists() and PARAMS.read_bytes() == text.encode():
        click.echo(f"{PARAMS} is {what} already")
        return
    kept = write_composed(text, PARAMS, file or DEFAULT)
    click.echo(f"{PARAMS} is {what} now" + (f"; the one before is {kept}" if kept else ""))
