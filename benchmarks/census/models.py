"""The tiny random model of a row."""

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.census.attempts import NotMeasuredError
from benchmarks.census.configurations import tiny_config
from benchmarks.census.rows import Row
from pipeline.prefix.architecture.miniature import draw_weights

_MOST_PARAMETERS = 20_000_000


def build(row: Row) -> PreTrainedModel:
    """The model of a row in float32 and evaluation mode, its weights drawn from a fixed seed.

    Raises NotMeasuredError where it stays large, or whatever the model's own class raises.
    """
    config = tiny_config(row.model_type, row.changes)
    auto = getattr(transformers, row.auto_class)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise NotMeasuredError(f"it keeps {size:,} parameters")
    torch.manual_seed(0)
    # The first may have changed the configuration.
    config = tiny_config(row.model_type, row.changes)
    model: PreTrainedModel = auto.from_config(config).float().eval()
    draw_weights(model)
    if model.can_generate() and not config.is_encoder_decoder:
        # No length is the last of a random model's.
        model.generation_config.forced_eos_token_id = None
    return model
