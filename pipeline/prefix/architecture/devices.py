"""Where a frozen model computes, which is in several places where accelerate spread it over them.

Of a model that was loaded with a `device_map` each block has a hook that brings inputs to its
device, and weights too that wait in memory or on disk: such weights are on the `meta` device
between calls, so that where a parameter is does not say where its module computes.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import layer_of


def is_spread(model: nn.Module) -> bool:
    """Whether a model's parts are in more than one place (devices, memory, disk).

    Weights on disk alone are too: they are brought to where they are needed.
    """
    places = set(map(str, (getattr(model, "hf_device_map", None) or {}).values()))
    return len(places) > 1 or "disk" in places


def waits_elsewhere(model: nn.Module) -> bool:
    """Whether some weights are brought to where they are needed for each call alone."""
    return any(parameter.is_meta for parameter in model.parameters())


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model's inputs go: to the device on which its input embedding computes."""
    return computing_device(model.get_input_embeddings()) if is_spread(model) else model.device


def computing_device(module: nn.Module) -> torch.device:
    """The device on which a module computes, wherever its weights wait meanwhile."""
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device = getattr(each, "execution_device", None)
            if device is not None:
                return torch.device(device)
        for parameter in part.parameters(recurse=False):
            return parameter.device
    return torch.device("cpu")


def on_its_layers(kv: KVPrefix | None, model: PreTrainedModel) -> KVPrefix | None:
    """A prefix whose tensors are each on the device on which the model's layer computes.

    As it is for a model in one place. The gradient finds its way back.
    """
    if kv is None or not is_spread(model):
        return kv
    places: dict[int, torch.device] = {}
    for module in model.modules():
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int):
            places.setdefault(layer, computing_device(module))
    layers = range(len(kv.keys)) if kv.layers is None else kv.layers

    def placed(layer: int, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(places.get(layer, tensor.device))

    return replace(
        kv,
        keys=tuple(map(placed, layers, kv.keys)),
        values=tuple(map(placed, layers, kv.values)),
        states={name: placed(layer_of(name), state) for name, state in kv.states.items()},
    )


def index_of_states(model: PreTrainedModel, index: torch.Tensor) -> Any:
    """An index `[n]` into a model's last states, which may be on another device than its inputs.

    Then as plain numbers, since accelerate brings a tensor to where the inputs are.
    """
    return index.tolist() if is_spread(model) else index
