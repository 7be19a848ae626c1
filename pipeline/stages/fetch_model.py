"""Stage `fetch_model`: the frozen model and its tokenizer into data/model."""

from pipeline.config import Params
from pipeline.sources.model import fetch_model
from pipeline.workspace import paths


def run(params: Params) -> None:
    """Fetch and convert what `model` names."""
    fetch_model(params.model, paths.MODEL)
