"""`python -m pipeline params`: an example over params.yaml, and back."""

from pathlib import Path

import click

from pipeline.cli.names import complete_examples
from pipeline.config.compose import BEFORE, compose, restore


@click.command()
@click.argument(
    "example", required=False, type=click.Path(path_type=Path), shell_complete=complete_examples
)
@click.option("--restore", "back", is_flag=True, help="Put the params of before back in place.")
def params(example: Path | None, back: bool) -> None:
    """Put EXAMPLE, which says what differs, over params.yaml; the params of before are kept aside.

    \b
    python -m pipeline params examples/webnlg.yaml
    python -m pipeline params --restore
    """
    if back == (example is not None):
        raise click.UsageError("give either EXAMPLE or --restore")
    if example is None:
        restore()
        click.echo("params.yaml: as it was before")
    else:
        compose(example)
        click.echo(f"params.yaml: {example} over {BEFORE}; `params --restore` takes it back")
