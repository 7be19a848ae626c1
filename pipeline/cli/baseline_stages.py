"""The stages of baselines, a subcommand each, as dvc.yaml calls them."""

from typing import TYPE_CHECKING

import click

from pipeline.cli.checked_params import checked_params
from pipeline.cli.names import completing
from pipeline.cli.processes import run_training
from pipeline.cli.stage_options import baseline_options, context_options, drawn_by
from pipeline.cli.sweep_progress import sweep_shown
from pipeline.config import Params
from pipeline.preflight.names import check_in_context
from pipeline.sweep.baselines import Baseline

if TYPE_CHECKING:
    from pipeline.distributed.ranks import Ranks


@click.command()
@click.argument("baseline", shell_complete=completing("baselines"))
def baselines(baseline: str) -> None:
    """Measure BASELINE on validation and the test splits into data/evaluate.

    \b
    python -m pipeline baselines no_prefix
    """
    params = checked_params()
    with sweep_shown(params, bars=len(params.evaluate.measured_splits)):
        from pipeline.stages import baselines as stage

        stage.run(params, baseline)


@click.command("in_context")
@context_options
def in_context(length: int, initialization: str) -> None:
    """Measure the first tokens of an initialisation's text, untrained, into data/evaluate.

    \b
    python -m pipeline in_context --length 8 --initialization demonstrations
    """
    params = checked_params()
    check_in_context(params, length, initialization)
    with sweep_shown(params, bars=len(params.evaluate.measured_splits)):
        from pipeline.stages import in_context as stage

        stage.run(params, length, initialization)


@click.command("baseline_start")
@click.argument("baseline", shell_complete=completing("trained_baselines"))
def baseline_start(baseline: str) -> None:
    """Bring what the prefix of BASELINE starts from, where it has one, into data/baseline_start.

    \b
    python -m pipeline baseline_start prefix_and_lora
    """
    params = checked_params()
    from pipeline.stages import baseline_start as stage

    stage.run(params, baseline)


@click.command("train_baseline")
@baseline_options
def train_baseline(baseline: str, seed: int, train_size: int | None) -> None:
    """Train BASELINE, one of trained_baselines, into data/train.

    \b
    python -m pipeline train_baseline lora --seed 0
    """
    named = Baseline(baseline, seed=seed, train_size=train_size)

    def run(params: Params, ranks: "Ranks") -> None:
        from pipeline.stages import train_baseline as stage

        stage.run(params, named, ranks)

    run_training(run, ("train_baseline", baseline, *drawn_by(seed, train_size)), checked_params)


@click.command("evaluate_baseline")
@baseline_options
def evaluate_baseline(baseline: str, seed: int, train_size: int | None) -> None:
    """Measure a trained BASELINE on validation and the test splits into data/evaluate.

    \b
    python -m pipeline evaluate_baseline lora --seed 0
    """
    params = checked_params()
    with sweep_shown(params, bars=len(params.evaluate.measured_splits)):
        from pipeline.stages import evaluate_baseline as stage

        stage.run(params, Baseline(baseline, seed=seed, train_size=train_size))


BASELINE_STAGES = (baselines, in_context, baseline_start, train_baseline, evaluate_baseline)
"""The subcommands, in the order in which DVC runs them."""
