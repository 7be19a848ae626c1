"""The run that holds the report: a row of its own, beside the runs that it compares."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config import Params
from pipeline.sweep.grid import all_rows
from pipeline.tracking.library_run import library_run
from pipeline.tracking.runs import flatten, sha256, start_run
from pipeline.tracking.state import SWEEP, make_current, runs_named, unlist_others
from pipeline.tracking.store import open_experiment
from pipeline.tracking.view import describe, save_view, told_way

_SHOWN = ("sweep", "report", "model", "data")


def log_sweep(
    params: Params, report: Path, timed: Iterable[Path], runs: Mapping[str, str], won: str
) -> str:
    """Log the report folder, and files of timings, on the report's run; returns its id.

    `runs` are the runs of all that is compared, by name; `won` says in a few words who won, and
    becomes the experiment's description, with a link to the comparison. A report with the same
    summary as an earlier one finds its run again; a new one supersedes it.
    """
    experiment_id = open_experiment(params)
    client = MlflowClient()
    digest = sha256(report / "summary.csv")
    known = [
        run
        for run in runs_named(experiment_id, SWEEP)
        if run.data.tags.get("summary_sha256") == digest
    ]
    if known:
        run_id = str(known[0].info.run_id)
    else:
        settings = flatten(params.model_dump(include=set(_SHOWN)))
        run_id = start_run(experiment_id, SWEEP, settings, {"kind": SWEEP})
    client.log_artifacts(run_id, str(report), "report")
    for path in timed:
        client.log_artifact(run_id, str(path), "timings")
    # Last: a run without it was cut short, and is not found again.
    client.set_tag(run_id, "summary_sha256", digest)
    make_current(experiment_id, SWEEP, run_id)
    listed = {*(row.name for row in all_rows(params)), *map(library_run, params.library.together)}
    unlist_others(experiment_id, listed, run_id)
    save_view(params, experiment_id)
    describe(experiment_id, won, run_id)
    print(told_way(experiment_id))
    return run_id
