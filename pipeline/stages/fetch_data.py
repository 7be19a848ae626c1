"""Stage `fetch_data`: the raw splits into data/raw."""

from pipeline.config import Params
from pipeline.sources.data import fetch_data
from pipeline.workspace import paths


def run(params: Params) -> None:
    """Fetch what `data` names."""
    fetch_data(params.data, paths.RAW_DATA)
