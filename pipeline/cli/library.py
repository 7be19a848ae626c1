"""`python -m pipeline library`: the documents of a folder into params.yaml."""

from pathlib import Path

import click

from pipeline.config.listing import list_documents


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    help="A folder with your own questions about a document: <name>.jsonl, .csv, ...",
)
def library(folder: Path, held_out: Path | None) -> None:
    """List the files of FOLDER under library.documents of params.yaml, each by its name.

    `dvc repro library_together` then trains a prefix for each. DVC runs a stage a document by what
    params.yaml lists, so that a new file is listed by running this again; no other is trained anew
    but for its company.

    \b
    python -m pipeline library documents
    python -m pipeline library documents --held-out questions
    """
    documents = list_documents(folder, held_out)
    click.echo(
        f"params.yaml: {len(documents)} documents under library.documents; "
        "`dvc repro library_together` trains a prefix for each"
    )
