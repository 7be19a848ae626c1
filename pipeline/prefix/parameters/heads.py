"""Modules trained beside the prefix, such as a classifier's head (PEFT's `modules_to_save`)."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.errors import PrefixError


class TrainedModules(nn.Module):
    """Float32 copies of some of the frozen model's modules.

    `pipeline.prefix.injection.heads` lets them answer in the place of the model's own.

    Raises:
        PrefixError: for a name that the model has no module of.
    """

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        known = dict(model.named_modules())
        for name in names:
            if name not in known or not name:
                children = ", ".join(child for child, _ in model.named_children())
                raise PrefixError(
                    f"modules_to_save names '{name}', but {type(model).__name__} has no such "
                    f"module; its own are: {children}"
                )
        self.names = names
        # In a plain list: registered, the model's own would be parameters of this module too.
        self._originals = [known[name] for name in names]
        for name, module in zip(names, self._originals, strict=True):
            if any(type(p) not in (nn.Parameter, torch.Tensor) for p in module.parameters()):
                raise PrefixError(
                    f"modules_to_save names '{name}', whose weights are quantized and cannot be "
                    "trained; leave it out"
                )
        copies = [_apart(module).float().requires_grad_(True) for module in self._originals]
        self.copies = nn.ModuleList(copies)

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Each of the model's own modules, and its copy."""
        return zip(self._originals, self.copies, strict=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """A detached copy of every weight, under its name in the frozen model."""
        return {
            f"{name}.{key}": tensor.detach().clone()
            for name, trained in zip(self.names, self.copies, strict=True)
            for key, tensor in trained.state_dict().items()
        }

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave. Raises PrefixError when it is of other modules."""
        if {key: tensor.shape for key, tensor in tensors.items()} != {
            key: tensor.shape for key, tensor in self.tensors().items()
        }:
            raise PrefixError(
                f"the modules saved with the prefix ({', '.join(sorted(tensors))}) are not those "
                f"of this model's modules_to_save ({', '.join(self.names) or 'none'}), or of other "
                "shapes; was it trained for other labels?"
            )
        for name, trained in zip(self.names, self.copies, strict=True):
            start = f"{name}."
            trained.load_state_dict(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            )


def _apart(module: nn.Module) -> nn.Module:
    """A copy with its weights at hand, without the hooks of a model that accelerate spread."""
    hooks = [part.__dict__["_hf_hook"] for part in module.modules() if hasattr(part, "_hf_hook")]
    if not hooks:
        return copy.deepcopy(module)
    from accelerate.utils import align_module_device

    with ExitStack() as stack:
        for part in module.modules():
            stack.enter_context(align_module_device(part))
        # Without what the hooks hold: the weights of the whole model.
        copied = copy.deepcopy(module, dict.fromkeys(map(id, hooks)))
    for part in copied.modules():
        for name in ("_hf_hook", "_old_forward", "forward"):
            part.__dict__.pop(name, None)
    return copied
