"""The page of MLflow's UI that shows every current run beside the others.

MLflow keeps a named view of an experiment's runs in a tag of the experiment, which its menu "Views"
lists and a link opens. The tag holds JSON: the view's name and dates, and its state, deflated and
in base64. docs/decisions/mlflow_view.md says which fields of the state do what.
"""

import base64
import hashlib
import json
import re
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.tracking.charts import SECTIONS, cards
from pipeline.tracking.results import interval_tag
from pipeline.tracking.runs import metric_group
from pipeline.tracking.state import CURRENT, SWEEP
from pipeline.tracking.store import without_password
from pipeline.workspace import location

_TAG = "mlflow.sharedViewState."
_NAME, _CREATED, _DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"


def save_view(params: Params, experiment_id: str) -> None:
    """Save the comparison as a view of the experiment, in place of an earlier one."""
    state = json.dumps(_state(params), separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(state, 9)).decode()
    now = int(time.time() * 1000)
    view = {
        "name": f"Comparison of {_whose()}" if _is_shared() else "Comparison",
        "createdAt": now,
        "updatedAt": now,
        "state": f"deflate;{packed}",
    }
    tag = f"{_TAG}{view_key()}"
    MlflowClient().set_experiment_tag(experiment_id, tag, json.dumps(view))


def has_view(experiment_id: str) -> bool:
    """Whether this workspace has saved its comparison."""
    tags = MlflowClient().get_experiment(experiment_id).tags
    return f"{_TAG}{view_key()}" in tags


def view_key() -> str:
    """What the link calls the view by; a workspace and its experiments share one."""
    return f"comparison-{hashlib.sha256(location.home_label().encode()).hexdigest()[:8]}"


def view_link(experiment_id: str, charts: bool = False) -> str:
    """The view's place behind the address of any server of the store; `charts` in place of rows.

    `workflowType` opens the experiment among model trainings, where MLflow would else show a new
    browser its pages on traces.
    """
    query = {"workflowType": "machine_learning", "viewStateShareKey": view_key()}
    if charts:
        query["compareRunsMode"] = "CHART"
    return f"#/experiments/{experiment_id}/runs?{urlencode(query)}"


def describe(experiment_id: str, won: str, report: str) -> None:
    """Let the experiment's description say who won, and lead to the runs and to the report.

    The links begin with `#`: they stay on the server, and port, that shows them.
    """
    page = f"#/experiments/{experiment_id}/runs/{report}/artifacts/report/report.html"
    page += "?workflowType=machine_learning"
    links = (
        f"[compare the runs]({view_link(experiment_id)})",
        f"[charts]({view_link(experiment_id, charts=True)})",
        f"[report]({page})",
    )
    client = MlflowClient()
    # An experiment has one description: it is of the workspace that reported last.
    told = f"{_whose()}: {won}" if _is_shared() else won
    # MLflow shows this tag as the experiment's description.
    client.set_experiment_tag(experiment_id, "mlflow.note.content", f"{told} {' · '.join(links)}")
    # Without it MLflow asks what kind of experiment it is.
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")


def told_way(experiment_id: str) -> str:
    """Where to compare the runs, in a sentence."""
    if address := server():
        return f"All runs side by side: {address}/{view_link(experiment_id)}"
    return "All runs side by side: `make ui`, or `python -m pipeline ui`"


def server() -> str | None:
    """The address of the server that runs are logged to; None for a store without one.

    A password in it is left out: a browser asks for it.
    """
    store = str(mlflow.get_tracking_uri())
    if not store.startswith(("http://", "https://")):
        return None
    return without_password(store).replace("…@", "").rstrip("/")


def _whose() -> str:
    """Whose workspace it is, and where, without the number of its label."""
    return location.home_label().split(" ", 1)[-1]


def _is_shared() -> bool:
    """Whether other workspaces may log to this store: it lies outside the repository."""
    store = str(mlflow.get_tracking_uri())
    file = store.removeprefix("sqlite:///")
    return file == store or Path(file).resolve().parent != location.home().resolve()


def _state(params: Params) -> dict[str, Any]:
    chosen = f"{metric_group('validation')}/{params.report.sort_by}"
    judged = f"{metric_group(params.report.split)}/{params.report.sort_by}"
    shown = _columns(params, chosen, judged)
    return {
        "searchFilter": f"tags.state = '{CURRENT}' AND tags.kind != '{SWEEP}' "
        f"AND tags.workspace LIKE '{_workspaces()}'",
        "orderByKey": f"metrics.`{chosen}`",
        "orderByAsc": params.report.ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [key for key, _ in shown],
        "columnOrder": [_NAME, _CREATED, *(key for key, _ in shown), _DURATION],
        "columnWidths": {_NAME: 230, _CREATED: 120, **dict(shown)},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": cards(params, chosen, judged),
        "compareRunSections": SECTIONS,
        "isAccordionReordered": True,
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _columns(params: Params, chosen: str, judged: str) -> list[tuple[str, int]]:
    """Columns by MLflow's keys, with their widths in pixels, from left to right."""
    size = [("params.`train_size`", 80)] if params.sweep.train_sizes else []
    group, measured = metric_group(params.report.split), params.metrics
    others = [
        f"metrics.`{group}/{name}`"
        for name in measured
        if name != params.report.sort_by and METRICS[name].restates not in measured
    ]
    of_judged = [] if judged == chosen else [(f"metrics.`{judged}`", 110)]
    return [
        (f"metrics.`{chosen}`", 120),
        ("params.`length`", 60),
        ("params.`initialization`", 125),
        ("params.`seed`", 55),
        *size,
        # MLflow shows the column where a run has the tag.
        ("tags.`dvc_experiment`", 110),
        *of_judged,
        (f"tags.`{interval_tag(params)}`", 130),
        *((key, 110) for key in others),
        ("params.`learning_rate`", 95),
        ("metrics.`cache_bytes`", 95),
        ("metrics.`trainable_parameters`", 95),
    ]


def _workspaces() -> str:
    """A pattern for the labels of this workspace and of its experiments.

    A label that is kept begins with a number of its own, which keeps the filter short.
    """
    label = location.home_label()
    number = re.match(r"[0-9a-f]{12} ", label)
    return f"{number[0].strip() if number else label}%"
