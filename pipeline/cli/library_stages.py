"""The stages of a library, a subcommand each, as dvc.yaml calls them."""

from typing import Literal

import click

from pipeline.cli.checked_params import checked_params
from pipeline.cli.names import completing


@click.command("library_study")
@click.argument("document", shell_complete=completing("library", "documents"))
def library_study(document: str) -> None:
    """Ask for questions and answers about DOCUMENT, one of library, into data/library/study.

    \b
    python -m pipeline library_study kenya
    """
    params = checked_params()
    from pipeline.stages import library_study as stage

    stage.run(params, document)


@click.command("library_tokenize")
@click.argument("document", shell_complete=completing("library", "documents"))
def library_tokenize(document: str) -> None:
    """Tokenize what is asked about DOCUMENT, one of library, into data/library/tokenized.

    \b
    python -m pipeline library_tokenize kenya
    """
    params = checked_params()
    from pipeline.stages import library_tokenize as stage

    stage.run(params, document)


@click.command("library_train")
@click.argument("document", shell_complete=completing("library", "documents"))
@click.option(
    "--round",
    "of",
    type=click.Choice(["alone", "among"]),
    required=True,
    help="Alone, or among the prefixes of other documents, which were trained alone.",
)
def library_train(document: str, of: Literal["alone", "among"]) -> None:
    """Train the prefix of DOCUMENT, one of library, into data/library/alone or among.

    \b
    python -m pipeline library_train kenya --round alone
    """
    params = checked_params()
    from pipeline.stages import library_train as stage

    stage.run(params, document, of)


@click.command("library_together")
@click.argument("measurement", shell_complete=completing("library", "together"))
def library_together(measurement: str) -> None:
    """Measure the library's prefixes alone and several at once into data/library/together.

    MEASUREMENT is one of library.together.

    \b
    python -m pipeline library_together pairs
    """
    params = checked_params()
    from pipeline.stages import library_together as stage

    stage.run(params, measurement)


LIBRARY_STAGES = (library_study, library_tokenize, library_train, library_together)
"""The subcommands, in the order in which DVC runs them."""
