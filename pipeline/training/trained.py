"""What a training changes: a prefix, or weights, beside a prefix or without one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.parameters.encoder import PrefixEncoder


@dataclass(frozen=True)
class TrainedWeights:
    """A copy of every parameter that takes a gradient, by its name in the model."""

    tensors: dict[str, torch.Tensor]

    def restore(self, model: PrefixModel) -> None:
        """Put the copies back into the model that they are of."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                parameters[name].copy_(tensor)

    def save(self, path: Path) -> None:
        """Write the copies as safetensors."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path)


def trained_state(model: PrefixModel) -> KVPrefix | TrainedWeights:
    """The model's trained part as it is now, apart from it.

    Its prefix, where that is all; else every parameter that takes a gradient.
    """
    weights = any(parameter.requires_grad for parameter in model.frozen_model.parameters())
    if (
        isinstance(model.encoder, PrefixEncoder)
        and model.encoder.keeps_prefix_alone
        and not weights
    ):
        kv = model.kv_prefix()
        assert kv is not None, "its encoder yields one"
        return kv
    named = model.named_parameters()
    return TrainedWeights({name: p.detach().clone() for name, p in named if p.requires_grad})
