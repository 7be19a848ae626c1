"""The command line: one subcommand a stage, as dvc.yaml calls them, `check`, and later use."""

import os
import sys
from typing import Any

import click

from pipeline.baselines import Baseline
from pipeline.checks import check_files
from pipeline.commands import export, generate, import_adapter
from pipeline.config import Params, load_params
from pipeline.errors import PipelineError
from pipeline.failures import explained
from pipeline.variants import Variant


class _Group(click.Group):
    """Turns a user's mistake into its sentence on standard error and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        # Set before torch or tokenizers load: forked workers would only warn.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            _fail(str(error), code=error.exit_code)
        except ValueError as error:
            # PrefixError lives in the library, whose import costs seconds: tell it by its class.
            if type(error).__module__.startswith("pipeline.prefix"):
                _fail(str(error))
            raise
        except KeyboardInterrupt:
            _fail("stopped; `dvc repro` runs this stage again and keeps what is finished", code=130)
        except Exception as error:
            if (sentence := explained(error)) is None:
                raise
            _fail(sentence)


def _checked_params() -> Params:
    params = load_params()
    check_files(params)
    return params


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prefix tuning of a frozen language model, steered by params.yaml and run by DVC.

    `dvc repro` calls the stages below in their order; `python -m pipeline check` validates
    params.yaml without running any. With what they trained, `generate` answers texts, `export`
    writes a PEFT adapter, and `import` lets one join the comparison.
    """


for _command in (generate, export, import_adapter):
    main.add_command(_command)


@main.command()
def check() -> None:
    """Validate params.yaml, and what it names as far as it is here already."""
    for sentence in check_files(load_params()):
        click.echo(sentence)
    click.echo("params.yaml is valid")


@main.command("fetch_model")
def fetch_model() -> None:
    """Bring the frozen model into data/model."""
    from pipeline.stages import fetch_model as stage

    stage.run(_checked_params())


@main.command("fetch_data")
def fetch_data() -> None:
    """Bring the raw splits into data/raw."""
    from pipeline.stages import fetch_data as stage

    stage.run(_checked_params())


@main.command()
def tokenize() -> None:
    """Render and tokenize the raw splits into data/tokenized."""
    params = _checked_params()
    from pipeline.stages import tokenize as stage

    stage.run(params)


@main.command("kv_prefix")
@click.argument("initialization")
def kv_prefix(initialization: str) -> None:
    """Compute the KV cache that INITIALIZATION starts from into data/kv_prefix."""
    params = _checked_params()
    from pipeline.stages import kv_prefix as stage

    stage.run(params, initialization)


def _variant_options(command: Any) -> Any:
    for option in (
        click.option("--train-size", type=int, help="One of sweep.train_sizes; default: all."),
        click.option("--seed", type=int, required=True, help="One of sweep.seeds."),
        click.option("--initialization", required=True, help="One of sweep.initializations."),
        click.option("--length", type=int, required=True, help="One of sweep.lengths."),
    ):
        command = option(command)
    return command


@main.command()
@_variant_options
def train(length: int, initialization: str, seed: int, train_size: int | None) -> None:
    """Train one variant's prefix into data/train."""
    params = _checked_params()
    from pipeline.stages import train as stage

    stage.run(params, Variant(length, initialization, seed, train_size))


@main.command()
@_variant_options
def evaluate(length: int, initialization: str, seed: int, train_size: int | None) -> None:
    """Measure one trained variant on the test splits into data/evaluate."""
    params = _checked_params()
    from pipeline.stages import evaluate as stage

    stage.run(params, Variant(length, initialization, seed, train_size))


@main.command()
@click.argument("baseline")
def baselines(baseline: str) -> None:
    """Measure BASELINE on the test splits into data/baselines."""
    params = _checked_params()
    from pipeline.stages import baselines as stage

    stage.run(params, baseline)


@main.command("in_context")
@click.option("--length", type=int, required=True, help="One of sweep.lengths.")
@click.option("--initialization", required=True, help="One of sweep.in_context.")
def in_context(length: int, initialization: str) -> None:
    """Measure the first tokens of an initialisation's text, untrained, into data/baselines."""
    params = _checked_params()
    from pipeline.stages import in_context as stage

    stage.run(params, length, initialization)


def _baseline_options(command: Any) -> Any:
    for option in (
        click.option("--train-size", type=int, help="One of sweep.train_sizes; default: all."),
        click.option("--seed", type=int, required=True, help="One of sweep.seeds."),
        click.argument("baseline"),
    ):
        command = option(command)
    return command


@main.command("train_baseline")
@_baseline_options
def train_baseline(baseline: str, seed: int, train_size: int | None) -> None:
    """Train BASELINE, one of trained_baselines, into data/train."""
    params = _checked_params()
    from pipeline.stages import train_baseline as stage

    stage.run(params, Baseline(baseline, seed=seed, train_size=train_size))


@main.command("evaluate_baseline")
@_baseline_options
def evaluate_baseline(baseline: str, seed: int, train_size: int | None) -> None:
    """Measure a trained BASELINE on the test splits into data/baselines."""
    params = _checked_params()
    from pipeline.stages import evaluate_baseline as stage

    stage.run(params, Baseline(baseline, seed=seed, train_size=train_size))


@main.command()
def report() -> None:
    """Compare all variants and baselines in data/report and in MLflow."""
    params = _checked_params()
    from pipeline.stages import report as stage

    stage.run(params)
