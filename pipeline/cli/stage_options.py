"""How stages are told a variant or a baseline on the command line."""

from typing import Any

import click

from pipeline.cli.names import completing


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


def variant_options(command: Any) -> Any:
    """What names a variant: length, initialisation, seed and training size."""
    for option in (
        _TRAIN_SIZE,
        _SEED,
        _of_sweep("--initialization", "initializations", str),
        _LENGTH,
    ):
        command = option(command)
    return command


def drawn_by(seed: int, train_size: int | None) -> tuple[str, ...]:
    """The options that say so on a command line."""
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
