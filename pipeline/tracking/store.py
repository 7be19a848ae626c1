"""The MLflow experiment, and what happens when it cannot be reached."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import Params


def open_experiment(params: Params) -> str:
    """The id of params' experiment in the store that MLFLOW_TRACKING_URI or MLflow's default names.

    Creates the experiment when it is new. Raises whatever MLflow raises when there is no store.
    """
    import logging

    import mlflow

    # The first use of a SQLite store prints every database migration.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return str(mlflow.set_experiment(params.mlflow.experiment).experiment_id)


@contextmanager
def never_fatal(action: str) -> Iterator[None]:
    """Turn a failure of MLflow into a warning: a result on disk is worth more than its mirror.

    Any exception is caught on purpose: MLflow lets those of its store and its server through.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(
            f"warning: could not {action} in MLflow ({reason}); the stage's files are complete, "
            "and `dvc repro --force --single-item report` logs what is missing",
            file=sys.stderr,
        )
