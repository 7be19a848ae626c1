"""`python -m pipeline export` and `import`: prefixes out and in."""

from pathlib import Path

import click

from pipeline.cli.names import complete_variants
from pipeline.config import load_params
from pipeline.serving.formats import FORMATS, Wanted, export_prefixes
from pipeline.sweep.variants import BEST


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    default="peft",
    show_default=True,
    help="What the folder is for: PEFT, vLLM, llama.cpp, or transformers alone (cache).",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=(BEST,),
    show_default=True,
    metavar="NAME",
    shell_complete=complete_variants,
    help="A variant such as len32-demonstrations-seed0, an imported adapter, or the best by "
    "report.sort_by on validation.  Given more than once, several, which vLLM serves at once.",
)
@click.option(
    "--base-model",
    metavar="NAME",
    help="What the export names as its base model.  [default: the Hub's id, or data/model]",
)
@click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="MODEL.gguf",
    help="The frozen model for llama.cpp, whose keys and values are compared with transformers' "
    "before anything is written.  [default: serving.llama_cpp]",
)
@click.option("--force", is_flag=True, help="Replace FOLDER, whatever is in it.")
def export(
    folder: Path,
    format_name: str,
    variants: tuple[str, ...],
    base_model: str | None,
    verify: Path | None,
    force: bool,
) -> None:
    """Write a prefix into FOLDER for other software, with a model card.

    The card, README.md, says how to load it: in PEFT and in plain transformers (peft), as a cache
    of transformers (cache), or in a server (vllm, llama.cpp).

    \b
    python -m pipeline export my-adapter
    python -m pipeline export my-adapter --variant len32-demonstrations-seed0 --force
    python -m pipeline export served --format vllm --variant best --variant len8-random-seed0
    python -m pipeline export state --format llama.cpp --verify model.gguf
    """
    params = load_params()
    wanted = Wanted(variants, folder, base_model, verify)
    written = export_prefixes(params, wanted, format_name, overwrite=force)
    click.echo(written.told)
    if written.found is not None:
        from pipeline.tracking.checked_engines import record_check

        record_check(params, written.variants, format_name, written.found)


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--name",
    help="What the comparison calls it: lower-case letters, digits and _.  "
    "[default: SOURCE's name]",
)
def import_adapter(source: Path, name: str | None) -> None:
    """Let a prefix that was trained elsewhere join the comparison.

    SOURCE is a folder with a PEFT adapter (prefix tuning or a cartridge), or a checkpoint of the
    Cartridges repository (cache_last.pt). It becomes adapters/NAME, listed under baselines of
    params.yaml, so that `dvc repro` measures it as it is beside the variants.

    \b
    python -m pipeline import path/to/adapter --name theirs
    python -m pipeline import runs/country/cache_last.pt --name cartridge
    """
    params = load_params()
    from pipeline.adapters.joining import join

    name, tokens = join(params, source, name)
    click.echo(
        f"adapters/{name}: {tokens} virtual tokens, listed as baselines.{name} in params.yaml; "
        f"`dvc repro` measures it. Keep it with `git add adapters/{name} params.yaml`."
    )
