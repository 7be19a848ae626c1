"""Running stages within one process, which keeps what they share."""

import importlib
import traceback
from functools import cache
from typing import Any

import click
from filelock import FileLock

from pipeline.config import load_params
from pipeline.errors.failures import sentence_of
from pipeline.orchestration.fresh import Fresh
from pipeline.orchestration.task import LOGS, Task
from pipeline.sweep.variants import Variant

LIBRARIES = (
    *("torch", "torch._dynamo", "transformers", "mlflow", "mlflow.pyfunc", "datasets", "pandas"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("pipeline.cli.main", "pipeline.stages.train", "pipeline.stages.evaluate"),
    "pipeline.stages.baselines",
)
"""What nearly every stage imports, and a worker imports once."""


def run(task: Task) -> str | None:
    """Run a task's stages here, one after the other, or trainings together.

    Returns one sentence where that failed, None where it went well. What is printed goes to
    standard output and error, a traceback of what has no sentence too.
    """
    with _process().stage():
        try:
            if len(task.stages) > 1:
                _train_together(task)
            else:
                _call(task.commands[0])
        except BaseException as error:  # a worker outlives whatever a stage raises
            return _told(error, task)
    return None


@cache
def _process() -> Fresh:
    # Not above: whoever only starts workers needs no MLflow.
    from pipeline.tracking.store import never_fatal

    with never_fatal("open the experiment"):
        _open_store()
    return Fresh()


def _open_store() -> None:
    """One worker after the other: whoever is first to use a SQLite store makes its tables."""
    from pipeline.tracking.store import open_experiment

    LOGS.mkdir(parents=True, exist_ok=True)
    with FileLock(LOGS / "store.lock"):
        open_experiment(load_params())


def _command(name: str) -> Any:
    """The stage's command, as `python -m pipeline` finds it: by name, since it stands above."""
    return importlib.import_module("pipeline.cli.main").main.commands[name]


def _call(arguments: tuple[str, ...]) -> None:
    name, *rest = arguments
    _command(name).main(rest, prog_name=f"python -m pipeline {name}", standalone_mode=False)


def _train_together(task: Task) -> None:
    from pipeline.stages import train_together

    train_together.run(load_params(), [_variant(arguments) for arguments in task.commands])


def _variant(arguments: tuple[str, ...]) -> Variant:
    name, *rest = arguments
    return Variant(**_command(name).make_context(name, rest).params)


def _told(error: BaseException, task: Task) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    # Of a KeyboardInterrupt within a command click makes an Abort.
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "stopped"
    if isinstance(error, SystemExit):
        return f"ended with exit code {error.code}"
    sentence = sentence_of(error, task.commands[0][0])
    if sentence is None:
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    return sentence
