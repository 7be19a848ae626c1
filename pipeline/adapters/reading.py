"""The prefix of a variant or an imported adapter, without the frozen model at hand."""

from pathlib import Path

from pipeline.adapters.export import read_trained
from pipeline.config import Params
from pipeline.models.adapter import read_adapter
from pipeline.prefix import KVPrefix


def read_named(params: Params, name: str) -> KVPrefix:
    """The prefix of a name in params.yaml.

    Raises PipelineError when it is not trained yet, PrefixError when its file is damaged.
    """
    baseline = params.baselines.get(name)
    if baseline is not None and baseline.is_variant:
        return read_adapter(Path(baseline.path))
    return read_trained(name)
