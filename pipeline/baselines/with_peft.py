"""PEFT, which some baselines are made of: an extra that may be missing."""

import importlib.util

from pipeline.errors import PipelineError


def refuse_without_peft(what: str) -> None:
    """Raise PipelineError, which says what needs PEFT, where it is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise PipelineError(
            f"trained_baselines: {what} needs PEFT, which is not installed; run `pip install "
            "'.[peft]'`, or remove the baseline"
        )
