"""A frozen model whose weights are spread over the processes of a training (FSDP2)."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline.distributed.ranks import Ranks
from pipeline.errors import PipelineError
from pipeline.prefix import PrefixModel


def shard_frozen_model(prefixed: PrefixModel, ranks: Ranks, device: torch.device) -> None:
    """Let each process keep its part of every weight, on `device`, and drop the rest.

    A layer's weights are brought together when it runs, forward or backward, and let go after it
    (ZeRO stage 3, Rajbhandari et al. 2020, arXiv 1910.02054, by torch's `fully_shard`); what is
    outside of the layers stays together for a whole pass. The model may be on the CPU: one layer
    at a time comes to the device. It is changed in place, and its results are the same. What is
    trained comes to the device whole.

    From now on all processes have to call the model equally often.

    Raises:
        PipelineError: when transformers does not name the model's layers.
    """
    model = prefixed.frozen_model
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise PipelineError(
            f"hardware.shard_frozen_model: {type(model).__name__} does not name its layers; set it "
            "to false"
        )
    # It is tried on the whole model once: later a process might be alone in asking.
    _ = prefixed.padding
    mesh = init_device_mesh(device.type, (ranks.size,))
    for layer in layers:
        _shard(layer, mesh)
    _shard(model, mesh)
    prefixed.encoder.to(device)
    prefixed.heads.to(device)


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether this process holds only a part of the model's weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _shard(module: nn.Module, mesh: torch.distributed.DeviceMesh) -> None:
    kind = type(module)
    sharded = fully_shard(module, mesh=mesh)
    assert isinstance(sharded, FSDPModule), "that is what torch makes of it"
    # Once brought together here: what is allocated in inference mode, as the loss before the first
    # step is measured, could be saved for no backward pass.
    sharded.unshard()
    sharded.reshard()
    # torch gives it a class of its own, which nothing here calls any more. transformers, and what
    # tries an architecture in miniature, go by a class's name, its file and its arguments.
    module.__class__ = kind
