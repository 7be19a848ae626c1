"""`python -m pipeline inspect`: what is inside a trained prefix."""

from pathlib import Path

import click

from pipeline.cli.names import complete_variants
from pipeline.config import Params, load_params
from pipeline.errors import PipelineError
from pipeline.preflight.files import check_files
from pipeline.sweep.variants import BEST

_SPLITS = click.Choice(["validation", "test", "test_unseen"])


@click.command()
@click.argument("variant", required=False, shell_complete=complete_variants)
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    help="Inputs to show attention for and to measure the loss on; 0 for none.  "
    "[default: inspection.examples]",
)
@click.option("--split", type=_SPLITS, help="Whose inputs.  [default: inspection.split]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The folder to write to.  [default: data/inspection/VARIANT]",
)
def inspect(
    variant: str | None, examples: int | None, split: str | None, output: Path | None
) -> None:
    """Look into the prefix of VARIANT: one of the sweep, an imported adapter, or "best".

    Shows how far each layer's keys and values moved in training, which virtual tokens inputs
    attend to, the words that they are nearest to, and the loss without each of them and without
    each layer; writes tables (CSV), pictures (PNG) and inspection.html, to explore.

    \b
    python -m pipeline inspect best
    python -m pipeline inspect len8-random-seed0 --examples 32 --output looked-into

    Without anything it is the stage of DVC's: the best by report.sort_by on validation, with what
    params.yaml says, into data/inspection/best for the report.
    """
    params = load_params()
    if (variant, examples, split, output) == (None, None, None, None):
        check_files(params)
        from pipeline.stages import inspect as stage

        stage.run(params)
        return
    _inspect(params, variant or BEST, examples, split, output)


def _inspect(
    params: Params, variant: str, examples: int | None, split: str | None, output: Path | None
) -> None:
    from pipeline.comparison.inspected import write_pictures
    from pipeline.comparison.summary import best_evaluated
    from pipeline.inference.selection import choose, load_prefix
    from pipeline.inspection.folder import is_of_found, write_found
    from pipeline.inspection.looking import look_into
    from pipeline.inspection.shown import shown
    from pipeline.inspection.variant import prefix_of
    from pipeline.storage.atomic import atomic_folder
    from pipeline.workspace import paths

    # As the evaluations stand, whether or not there is a report of them.
    name = best_evaluated(params) if variant == BEST else choose(params, variant)
    folder = output or paths.INSPECTION / name
    if folder.exists() and not is_of_found(folder):
        raise PipelineError(f"{folder}: is there and holds no inspection; name a new folder")
    most = params.inspection.examples if examples is None else examples or None
    prefix = prefix_of(
        params,
        name,
        lambda frozen: load_prefix(params, name, frozen),
        split or params.inspection.split,
        most,
    )
    found = look_into(prefix, params.memory.max_tokens_per_batch, title="inspect")
    with atomic_folder(folder) as aside:
        write_found(found, aside)
        write_pictures(found, aside, params.report.dpi)
    click.echo(f"{shown(found)}\n\nTables and pictures: {folder}")
