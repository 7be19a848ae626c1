"""Stage `held_out`: a person's own questions about a corpus, for the test."""

from pathlib import Path

from pipeline.config import Params
from pipeline.preflight.names import check_self_study
from pipeline.sources.held_out import write_held_out
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/self_study/<name>/held_out: `test.jsonl`, and `test_unseen.jsonl` if there is one.

    A stage of its own, so that an edited question asks the model for nothing again.
    """
    check_self_study(params, name)
    folder = paths.SELF_STUDY / name / paths.HELD_OUT
    write_held_out(Path(params.self_study[name].held_out), f"self_study.{name}.held_out", folder)
