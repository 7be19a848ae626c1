"""Which run of a variant is current, and where MLflow's list of runs has the others: below it.

MLflow folds a run below the one that its tag `mlflow.parentRunId` names. What is current is a row
of its own; what it superseded is found behind its `+`, and nothing is deleted.
"""

from collections.abc import Collection

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from pipeline.workspace import location

CURRENT = "current"
SUPERSEDED = "superseded"
UNLISTED = "unlisted"

SWEEP = "sweep"
"""The tags `variant` and `kind` of the run that holds the report."""

_TITLES = {SWEEP: "report"}


def runs_named(experiment_id: str, name: str) -> list[Run]:
    """All runs of a variant, a baseline or the sweep, newest first, of this workspace alone.

    Others log to the same server under the same names; their runs are theirs.
    """
    return runs_where(experiment_id, f"tags.variant = '{name}'", location.label())


def runs_where(experiment_id: str, condition: str, workspace: str) -> list[Run]:
    """The runs of the workspace with this label that meet a condition, newest first."""
    condition = f"{condition} AND tags.workspace = '{workspace}'"
    newest_first = ["attributes.start_time DESC"]
    runs: list[Run] = []
    token: str | None = None
    while True:
        # A page has a thousand at most.
        page = MlflowClient().search_runs(
            [experiment_id], condition, order_by=newest_first, page_token=token
        )
        runs += page
        if not (token := page.token):
            return runs


def is_current(run: Run) -> bool:
    """Whether it is the one of its variant that is compared."""
    return bool(run.data.tags.get("state") == CURRENT)


def make_current(experiment_id: str, name: str, run_id: str, workspace: str | None = None) -> None:
    """Mark one run of a variant current, and every other superseded and below it.

    Superseded runs stay, so that earlier results can still be compared. `workspace` is the label
    of the one whose run it is; by default this one's.
    """
    label = location.label() if workspace is None else workspace
    for run in runs_where(experiment_id, f"tags.variant = '{name}'", label):
        if run.info.run_id == run_id:
            _place(run, CURRENT, None)
        else:
            _place(run, SUPERSEDED, run_id)


def unlist_others(experiment_id: str, listed: Collection[str], report: str) -> None:
    """Mark what is current but in params.yaml no longer, and put it below the report's run.

    Once it is listed and measured again, it is current again.
    """
    for state in (CURRENT, UNLISTED):
        for run in runs_where(experiment_id, f"tags.state = '{state}'", location.label()):
            if run.data.tags.get("variant") not in listed and run.info.run_id != report:
                _place(run, UNLISTED, report)


def shown_name(variant: str, score: str | None = None, state: str = CURRENT) -> str:
    """A run's name in MLflow: its score first, since MLflow's column cuts long names off."""
    title = _TITLES.get(variant, variant)
    scored = title if score is None else f"{score} · {title}"
    return scored if state == CURRENT else f"{scored} ({state})"


def _place(run: Run, state: str, parent: str | None) -> None:
    client, tags = MlflowClient(), run.data.tags
    wanted = {
        "state": state,
        MLFLOW_RUN_NAME: shown_name(tags["variant"], tags.get("score"), state),
        **({} if parent is None else {MLFLOW_PARENT_RUN_ID: parent}),
    }
    if parent is None and MLFLOW_PARENT_RUN_ID in tags:
        client.delete_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID)
    for key, value in wanted.items():
        if tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)
