"""How long each stage of the sweep took from start to end, which tells how long others will take.

Beside the stages' outputs, in `data/timings/stages/<stage>.json`: no two runs take the same time,
and no stage depends on it.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

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
    write_json(
        _folder() / f"{step.stage}.json", {"of": _digest(params, step.kind), "seconds": seconds}
    )


def durations(params: Params, steps: Iterable[Step]) -> dict[Step, float]:
    """The seconds that stages took with params as today's; without those not measured so."""
    # Of a sweep of thousands: what all have in common is computed once.
    folder, digests = _folder(), {kind: _digest(params, kind) for kind in Kind}
    known = {path.name for path in folder.glob("*.json")}
    found = {}
    for step in steps:
        if f"{step.stage}.json" in known:
            seconds = _seconds(folder / f"{step.stage}.json", digests[step.kind])
            if seconds is not None:
                found[step] = seconds
    return found


def _seconds(path: Path, digest: str) -> float | None:
    try:
        found = read_json(path)
        seconds = float(found["seconds"])
        return seconds if 0 < seconds < math.inf and found["of"] == digest else None
    except (PipelineError, KeyError, TypeError, ValueError):
        # Damaged: nothing depends on it, and the next run replaces it.
        return None


def _folder() -> Path:
    # Of a temporary workspace too: the next one goes by it.
    return location.home() / paths.TIMINGS / "stages"


def _digest(params: Params, kind: Kind) -> str:
    bearing = params.model_dump(mode="json", include=set(_BEARING[kind]))
    return hashlib.sha256(json.dumps(bearing, sort_keys=True).encode()).hexdigest()[:16]
