"""One subcommand a stage, as dvc.yaml calls them."""

from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.baseline_stages import BASELINE_STAGES
from pipeline.cli.checked_params import checked_params
from pipeline.cli.library_stages import LIBRARY_STAGES
from pipeline.cli.names import completing
from pipeline.cli.processes import run_training
from pipeline.cli.stage_options import arguments_of, variant_options
from pipeline.cli.sweep_progress import sweep_shown
from pipeline.config import Params
from pipeline.preflight.files import check_tokenized
from pipeline.sweep.variants import Variant

if TYPE_CHECKING:
    from pipeline.distributed.ranks import Ranks


@click.command("fetch_model")
def fetch_model() -> None:
    """Bring the frozen model into data/model.

    \b
    python -m pipeline fetch_model
    """
    from pipeline.stages import fetch_model as stage

    stage.run(checked_params())


@click.command("self_study")
@click.argument("corpus", shell_complete=completing("self_study"))
def self_study(corpus: str) -> None:
    """Ask for questions and answers about CORPUS, one of self_study, into data/self_study.

    \b
    python -m pipeline self_study handbook
    """
    params = checked_params()
    from pipeline.stages import self_study as stage

    stage.run(params, corpus)


@click.command("held_out")
@click.argument("corpus", shell_complete=completing("self_study"))
def held_out(corpus: str) -> None:
    """Bring your own questions about CORPUS, one of self_study, into data/self_study.

    \b
    python -m pipeline held_out handbook
    """
    params = checked_params()
    from pipeline.stages import held_out as stage

    stage.run(params, corpus)


@click.command("fetch_data")
def fetch_data() -> None:
    """Bring the raw splits into data/raw.

    \b
    python -m pipeline fetch_data
    """
    from pipeline.stages import fetch_data as stage

    stage.run(checked_params())


@click.command()
def tokenize() -> None:
    """Render and tokenize the raw splits into data/tokenized.

    \b
    python -m pipeline tokenize
    """
    params = checked_params()
    from pipeline.stages import tokenize as stage

    stage.run(params)
    # Known only now, and hours before an evaluation would fail of it.
    check_tokenized(params)


@click.command("kv_prefix")
@click.argument("initialization", shell_complete=completing("initializations"))
def kv_prefix(initialization: str) -> None:
    """Compute the KV cache that INITIALIZATION starts from into data/kv_prefix.

    \b
    python -m pipeline kv_prefix demonstrations
    """
    params = checked_params()
    from pipeline.stages import kv_prefix as stage

    stage.run(params, initialization)


@click.command()
@click.argument("teacher", shell_complete=completing("teachers"))
def teach(teacher: str) -> None:
    """Keep what TEACHER predicts, with its text in the context, in data/teachers.

    \b
    python -m pipeline teach rules
    """
    params = checked_params()
    from pipeline.stages import teach as stage

    stage.run(params, teacher)


@click.command()
@variant_options
def train(**named: Any) -> None:
    """Train one variant's prefix into data/train.

    \b
    python -m pipeline train --length 8 --initialization random --seed 0
    """
    variant = Variant(**named)

    def run(params: Params, ranks: "Ranks") -> None:
        from pipeline.stages import train as stage

        stage.run(params, variant, ranks)

    run_training(run, ("train", *arguments_of(variant)), checked_params)


@click.command()
@variant_options
def evaluate(**named: Any) -> None:
    """Measure one trained variant on validation and the test splits into data/evaluate.

    \b
    python -m pipeline evaluate --length 8 --initialization random --seed 0
    """
    variant = Variant(**named)
    params = checked_params()
    with sweep_shown(params, bars=len(params.evaluate.measured_splits)):
        from pipeline.stages import evaluate as stage

        stage.run(params, variant)


@click.command()
def report() -> None:
    """Compare all variants and baselines in data/report and in MLflow.

    \b
    python -m pipeline report
    """
    params = checked_params()
    from pipeline.stages import report as stage

    stage.run(params)


STAGES = (
    fetch_model,
    self_study,
    held_out,
    fetch_data,
    tokenize,
    kv_prefix,
    teach,
    train,
    evaluate,
    *BASELINE_STAGES,
    *LIBRARY_STAGES,
    report,
)
"""The subcommands, in the order in which DVC runs them."""
