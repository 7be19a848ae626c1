"""The tiny random model of a row."""

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from benchmarks.census.attempts import NotMeasuredError
from benchmarks.census.configurations import tiny_config
from benchmarks.census.rows import Row

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
    _draw(model)
    if model.can_generate() and not config.is_encoder_decoder:
        # No length is the last of a random model's.
        model.generation_config.forced_eos_token_id = None
    return model


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    """Weights that let attention, positions and states show in the logits; no norm is 1, no bias 0.

    As transformers draws them, a layer of 32 numbers changes next to nothing.
    """
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(noise * 0.1)
