"""The schema of params.yaml: `load_params` reads and validates it as one `Params`."""

from pipeline.config.load import load_params
from pipeline.config.params import Params

__all__ = ["Params", "load_params"]
