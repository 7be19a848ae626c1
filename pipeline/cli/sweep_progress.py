"""Where the sweep stands, shown by each stage that DVC runs for a variant or baseline."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from pipeline.config import Params
from pipeline.progress.overall import Overall, watched
from pipeline.progress.watching import Watching, watching
from pipeline.standing.durations import record_duration
from pipeline.standing.standing import Standing


@contextmanager
def sweep_shown(params: Params, bars: int = 1) -> Iterator[None]:
    """Show the sweep's standing while a stage runs that shows this many bars of its own.

    One bar below them on a terminal, one line at the start in a log, nothing in CI; nothing either
    for a command typed by hand, which is no part of a `dvc repro`. Afterwards the stage's seconds
    are noted, by which the next ones tell how long they take. Nothing of this fails a stage.
    """
    standing = _standing(params)
    if standing is None:
        with watched(None):
            yield
        return
    if watching() is Watching.LOG:
        print(f"sweep: {standing.sentence()}", file=sys.stderr, flush=True)
    overall = Overall(standing.steps, len(standing.done), bars, standing.sentence)
    with watched(overall):
        yield
    # A training that went on from a checkpoint took longer than this process.
    if not overall.was_resumed:
        with suppress(Exception):
            began = psutil.Process().create_time()
            record_duration(params, standing.current, time.time() - began)


def _standing(params: Params) -> Standing | None:
    # DVC sets it for the commands of stages.
    stage = os.environ.get("DVC_STAGE")
    if stage is None or watching() is Watching.CI:
        return None
    try:
        return Standing.at(params, stage)
    except Exception:
        # An estimate that cannot be made, whatever the reason, is no reason to stop.
        return None
