"""MLflow's UI over the store that stages log to, opened where its runs are compared."""

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.tracking.serving import serving
from pipeline.tracking.store import prepare, told, without_password
from pipeline.tracking.view import has_view, save_view, server, view_link

_NOTHING = "nothing has been logged to MLflow yet; run `make repro` (or `dvc repro`) first"


def open_ui(params: Params, port: int | None, browser: bool | None) -> None:
    """Print the address of the comparison, open it, and serve it until Ctrl-C.

    Runs that are logged to a server of their own are served by that: its address is printed.
    `port`: None for the first free one from 5000 on. `browser`: None to open one where there is a
    desktop. Raises PipelineError where nothing has been logged yet, the store cannot be read, or
    the port is taken.
    """
    experiment_id = _experiment(params)
    if address := server():
        _tell(address, experiment_id, browser)
        return
    with suppress(KeyboardInterrupt), serving(port) as (address, process):
        _tell(address, experiment_id, browser)
        print("Ctrl-C ends it.", flush=True)
        process.wait()
        raise PipelineError("MLflow's server has ended by itself; start it again")
    print("MLflow's UI has ended.")


def _experiment(params: Params) -> str:
    prepare()
    store = str(mlflow.get_tracking_uri())
    path = store.removeprefix("sqlite:///")
    # Asking would make the file.
    if path != store and not Path(path).exists():
        raise PipelineError(_NOTHING)
    try:
        client = MlflowClient()
        found = client.get_experiment_by_name(params.mlflow.experiment)
        if found is None or not client.search_runs([found.experiment_id], max_results=1):
            raise PipelineError(_NOTHING)
        experiment_id = str(found.experiment_id)
        # Before the first report there is none.
        if not has_view(experiment_id):
            save_view(params, experiment_id)
    except PipelineError:
        raise
    except Exception as error:  # MLflow's stores and servers raise all kinds
        raise PipelineError(
            f"MLflow's store {without_password(store)} cannot be read ({told(error)}); "
            "MLFLOW_TRACKING_URI names it"
        ) from error
    return experiment_id


def _tell(address: str, experiment_id: str, browser: bool | None) -> None:
    runs = f"{address}/{view_link(experiment_id)}"
    print(f"The runs side by side: {runs}")
    print(f"Their charts:          {address}/{view_link(experiment_id, charts=True)}", flush=True)
    if _has_desktop() if browser is None else browser:
        webbrowser.open(runs)


def _has_desktop() -> bool:
    if "SSH_CONNECTION" in os.environ:
        return False
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
