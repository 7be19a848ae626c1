"""The MLflow experiment, and what happens when it cannot be reached."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config import Params
from pipeline.errors import first_line
from pipeline.workspace import location

_SECONDS = "10"  # for one answer of a server
_RETRIES = "2"  # of a request that got none


def open_experiment(params: Params) -> str:
    """The id of params' experiment in the store that MLFLOW_TRACKING_URI or MLflow's default names.

    Creates the experiment when it is new. Raises whatever MLflow raises when there is no store.
    """
    return experiment_named(params.mlflow.experiment)


def experiment_named(name: str) -> str:
    """As `open_experiment`, by name."""
    prepare()
    if location.is_temporary() and not os.environ.get("MLFLOW_TRACKING_URI"):
        _use_store_at(location.home(), name)
    return str(mlflow.set_experiment(name).experiment_id)


def prepare() -> None:
    """Before MLflow is first asked: let it neither wait nor tell too long."""
    # MLflow's own 120 seconds and 7 retries could hold a stage up for half an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _SECONDS)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _RETRIES)
    # The first use of a SQLite store prints every database migration, and that of an experiment
    # that it is made.
    logging.getLogger("mlflow.tracking.fluent").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)


def _use_store_at(home: Path, experiment: str) -> None:
    """MLflow's default store lies in the working folder, which a temporary workspace takes away."""
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    client = MlflowClient()
    if client.get_experiment_by_name(experiment) is None:
        # A folder of its own below mlruns, whatever the name is: /, .. and the like are encoded.
        name = quote(experiment, safe=" ").replace(".", "%2E")
        artifacts = (home / "mlruns" / name).as_uri()
        # Another worker may have made it meanwhile.
        with contextlib.suppress(MlflowException):
            client.create_experiment(experiment, artifact_location=artifacts)


@contextmanager
def never_fatal(action: str) -> Iterator[None]:
    """Turn a failure of MLflow into a warning: a result on disk is worth more than its mirror.

    Any exception is caught on purpose: MLflow lets those of its store and its server through.
    """
    try:
        yield
    except Exception as error:
        print(
            f"warning: could not {action} in MLflow ({told(error)}); the stage's files are "
            "complete, and `dvc repro --force --single-item report` logs what is missing",
            file=sys.stderr,
        )


def told(error: BaseException) -> str:
    """What MLflow says of a failure, in a part of a sentence and without a password."""
    return without_password(first_line(error))[:600]


def without_password(text: str) -> str:
    """A text whose addresses have lost their user and password; the path of a file is none."""
    return re.sub(r"(?<=://)(?!/)\S*@", "…@", text)
