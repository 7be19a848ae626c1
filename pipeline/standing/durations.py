"""How long each stage of the sweep took from start to end, which tells how long others will take.

Beside the stages' outputs, in `data/timings/stages/<stage>.json`: no two runs take the same time,
and no stage depends on it.
"""

import hashlib
import json
import math

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.standing.steps import Kind, Step
from pipeline.storage.records import read_json, write_json
from pipeline.workspace import location, paths

_BEARING = {
    Kind.TRAINING: ("model", "data", "task", "prefix", "train", "trained_baselines"),
    Kind.MEASUREMENT: ("model", "data", "task", "prefix", "evaluate", "memory"),
}
"""The sections of params.yaml on which the time of a stage depends."""


def record_duration(params: Params, step: Step, seconds: float) -> None:
    """Note how long a stage took, its start included."""
    write_json(_path(step), {"of": _digest(params, step.kind), "seconds": seconds})


def duration(params: Params, step: Step) -> float | None:
    """The seconds that a stage took with params as today's; None when none were measured so."""
    path = _path(step)
    if not path.exists():
        return None
    try:
        found = read_json(path)
        seconds = float(found["seconds"])
        is_time = 0 < seconds < math.inf
        return seconds if is_time and found["of"] == _digest(params, step.kind) else None
    except (PipelineError, KeyError, TypeError, ValueError):
        # Damaged: nothing depends on it, and the next run replaces it.
        return None


def _path(step: Step) -> paths.Path:
    # Of a temporary workspace too: the next one goes by it.
    return location.home() / paths.TIMINGS / "stages" / f"{step.stage}.json"


def _digest(params: Params, kind: Kind) -> str:
    bearing = params.model_dump(mode="json", include=set(_BEARING[kind]))
    return hashlib.sha256(json.dumps(bearing, sort_keys=True).encode()).hexdigest()[:16]
