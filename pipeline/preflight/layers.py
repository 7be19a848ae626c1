"""Whether the model has the layers that params ask for a prefix in."""

from pathlib import Path

from pipeline.config import Params
from pipeline.errors import PipelineError


def check_layers(params: Params, folder: Path) -> None:
    """Raise PipelineError for a layer that the model in `folder` has not.

    The model's configuration is read, by transformers, only where layers are named.
    """
    named = {"prefix.layers": params.prefix.layers}
    if params.library.documents:
        named["library.prefix.layers"] = params.library.prefix.layers
    if not any(named.values()):
        return
    # As in `check_kinds`.
    from pipeline.models.kinds import layers_of_model

    count = layers_of_model(folder)
    for key, layers in named.items():
        if layers is not None and count is not None and max(layers) >= count:
            raise PipelineError(
                f"{key}: names {max(layers)}, but the model's layers are 0 to {count - 1}; leave "
                "it out, or use null for all"
            )
