"""The page of MLflow's UI that shows every current run beside the others."""

from urllib.parse import urlencode

import mlflow

from pipeline.config import Params
from pipeline.tracking.runs import metric_group

LOCAL_UI = "http://localhost:5000"
"""Where `mlflow ui` serves by default."""


def comparison_url(params: Params, experiment_id: str) -> str:
    """Charts of all current runs, sorted as the report is.

    MLflow folds runs below their parent, and draws nothing for folded ones, unless runs are sorted
    by a metric.
    """
    query = {
        "orderByKey": f"metrics.`{metric_group('validation')}/{params.report.sort_by}`",
        "orderByAsc": str(params.report.ascending).lower(),
        "searchFilter": "tags.state = 'current'",
        "compareRunsMode": "CHART",
    }
    store = mlflow.get_tracking_uri()
    server = store.rstrip("/") if store.startswith(("http://", "https://")) else LOCAL_UI
    return f"{server}/#/experiments/{experiment_id}/runs?{urlencode(query)}"
