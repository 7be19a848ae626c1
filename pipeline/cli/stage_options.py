"""How stages are told a variant or a baseline on the command line."""

import math
from typing import Any

import click

from pipeline.cli.names import completing
from pipeline.sweep.variants import Variant


class _Rate(click.ParamType):
    """A learning rate, whichever way it is written: 1e-2 is 0.01."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        rate: float = click.FLOAT.convert(value, param, ctx)
        if not 0 < rate < math.inf:
            self.fail(f"{value} is no learning rate; give a number above 0", param, ctx)
        return rate


def _of_sweep(option: str, key: str, kind: type = int) -> Any:
    """A required option whose values are those of a list of `sweep`."""
    return click.option(
        option,
        type=kind,
        required=True,
        shell_complete=completing("sweep", key),
        help=f"One of sweep.{key}.",
    )


_LENGTH = _of_sweep("--length", "lengths")
_SEED = _of_sweep("--seed", "seeds")
_TRAIN_SIZE = click.option(
    "--train-size",
    type=int,
    shell_complete=completing("sweep", "train_sizes"),
    help="One of sweep.train_sizes; default: all.",
)
_LEARNING_RATE = click.option(
    "--learning-rate",
    type=_Rate(),
    shell_complete=completing("sweep", "learning_rates"),
    help="One of sweep.learning_rates; default: train.learning_rate.",
)


def variant_options(command: Any) -> Any:
    """What names a variant: length, initialisation, seed, and training size or learning rate."""
    for option in (
        _LEARNING_RATE,
        _TRAIN_SIZE,
        _SEED,
        _of_sweep("--initialization", "initializations", str),
        _LENGTH,
    ):
        command = option(command)
    return command


def arguments_of(variant: Variant) -> tuple[str, ...]:
    """The options that say so on a command line."""
    rate = variant.learning_rate
    return (
        *("--length", str(variant.length), "--initialization", variant.initialization),
        *drawn_by(variant.seed, variant.train_size),
        *(() if rate is None else ("--learning-rate", str(rate))),
    )


def drawn_by(seed: int, train_size: int | None) -> tuple[str, ...]:
    """The options of a seed and a training size."""
    size = () if train_size is None else ("--train-size", str(train_size))
    return ("--seed", str(seed), *size)


def baseline_options(command: Any) -> Any:
    """What names a trained baseline: its name, seed and training size."""
    named = click.argument("baseline", shell_complete=completing("trained_baselines"))
    for option in (_TRAIN_SIZE, _SEED, named):
        command = option(command)
    return command


def context_options(command: Any) -> Any:
    """What names the first tokens of an initialisation's text."""
    for option in (_of_sweep("--initialization", "in_context", str), _LENGTH):
        command = option(command)
    return command
