"""`python -m pipeline export` and `import`: PEFT adapters out and in."""

from pathlib import Path

import click

from pipeline.cli.options import variant_option
from pipeline.config import load_params


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@variant_option
@click.option(
    "--base-model",
    metavar="NAME",
    help="What the adapter names as its base model.  [default: the Hub's id, or data/model]",
)
@click.option("--force", is_flag=True, help="Replace FOLDER, whatever is in it.")
def export(folder: Path, variant: str, base_model: str | None, force: bool) -> None:
    """Write a prefix as a PEFT adapter into FOLDER, with a model card.

    The card, README.md, states base model, data, params and metrics, and how to load the adapter
    in PEFT and in plain transformers.

    \b
    python -m pipeline export my-adapter
    python -m pipeline export my-adapter --variant len32-demonstrations-seed0 --force
    """
    params = load_params()
    from pipeline.adapters.export import export_adapter
    from pipeline.inference.selection import choose

    name = choose(params, variant)
    export_adapter(params, name, folder, base_model, replace=force)
    click.echo(f"{folder}: {name} as a PEFT adapter, with a model card")


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--name",
    help="What the comparison calls it: lower-case letters, digits and _.  "
    "[default: FOLDER's name]",
)
def import_adapter(folder: Path, name: str | None) -> None:
    """Let a PEFT prefix-tuning adapter in FOLDER join the comparison.

    Copies it to adapters/NAME and lists it under baselines of params.yaml, so that `dvc repro`
    measures it as it is beside the variants.

    \b
    python -m pipeline import path/to/adapter --name theirs
    """
    params = load_params()
    from pipeline.adapters.joining import join

    name, tokens = join(params, folder, name)
    click.echo(
        f"adapters/{name}: {tokens} virtual tokens, listed as baselines.{name} in params.yaml; "
        f"`dvc repro` measures it. Keep it with `git add adapters/{name} params.yaml`."
    )
