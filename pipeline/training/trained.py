"""What a training changes: a prefix, or weights of a model without one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from pipeline.prefix import KVPrefix, PrefixModel


@dataclass(frozen=True)
class TrainedWeights:
    """A copy of every parameter that takes a gradient, by its name in the model."""

    tensors: dict[str, torch.Tensor]

    def restore(self, model: PreTrainedModel) -> None:
        """Put the copies back into the model that they are of."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                parameters[name].copy_(tensor)

    def save(self, path: Path) -> None:
        """Write the copies as safetensors."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path)


def trained_state(model: PrefixModel | PreTrainedModel) -> "KVPrefix | TrainedWeights":
    """The model's trained part as it is now, apart from it."""
    if isinstance(model, PrefixModel):
        return model.kv_prefix()
    return TrainedWeights(
        {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    )


def prefix_length(model: PrefixModel | PreTrainedModel) -> int:
    """Virtual tokens before every input; 0 for a model without a prefix."""
    return model.prefix_config.num_virtual_tokens if isinstance(model, PrefixModel) else 0
