"""params.yaml as a stage takes it: read, and the files that it names looked at."""

from pipeline.config import Params, load_params
from pipeline.preflight.files import check_files


def checked_params() -> Params:
    """Read params.yaml. Raises PipelineError for a mistake in it, or in a file that it names."""
    params = load_params()
    check_files(params)
    return params
