"""Two devices on a machine that has one: what is on which is a label, which operations watch.

Numbers and gradients are a CPU's own. A tensor that was made on, or moved to, `cpu:0` or `cpu:1`
is labelled so, and what is computed of labelled tensors too; an operation on tensors of different
labels fails, as it does on two GPUs.
"""

from typing import Any

import torch
from accelerate import dispatch_model
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

_MOVES = (torch.Tensor.to, torch.Tensor.copy_)
_LABEL = "_place"


class Places(TorchFunctionMode):
    """Within it tensors are in places."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__" and func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return getattr(args[0], _LABEL, torch.device("cpu"))
        if name in ("__get__", "__set__", "backward", "_make_subclass", "requires_grad_"):
            return func(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return _labelled(func(*args, **kwargs).view_as(args[0]), None)
        device = _device(args[1:], kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func in _MOVES:
            place = device or getattr(tensors[-1], _LABEL, None)
            return _labelled(func(*args, **kwargs), place, anew=func is torch.Tensor.to)
        places = {getattr(t, _LABEL) for t in tensors if t.ndim and hasattr(t, _LABEL)}
        if len(places) > 1:
            raise RuntimeError(f"{func.__name__}: tensors on {' and '.join(map(str, places))}")
        place = next(iter(places)) if device is None and places else device
        return tree_map(lambda leaf: _labelled(leaf, place), func(*args, **kwargs))


def split_over_two(model: PreTrainedModel, device_map: dict[str, str]) -> None:
    """Let accelerate spread a model over `cpu:0` and `cpu:1`, for a call of it within `Places`."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        device = next(place for part, place in device_map.items() if name.startswith(part))
        setattr(tensor, _LABEL, torch.device(device))
    with Places():
        dispatch_model(model, device_map, main_device=next(iter(device_map.values())))


def place_of(tensor: torch.Tensor) -> str:
    """Where a tensor is."""
    return str(getattr(tensor, _LABEL, "nowhere"))


def _device(args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    given = [kwargs.get("device"), *args]
    for value in given:
        if isinstance(value, torch.device) or (isinstance(value, str) and value[:3] == "cpu"):
            device = torch.device(value)
            return device if device.index is not None else None
    return None


def _labelled(leaf: Any, place: torch.device | None, anew: bool = False) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if anew and getattr(leaf, _LABEL, place) != place:
        # torch moved nothing: what stays behind keeps its label.
        leaf = leaf.view_as(leaf)
    if place is not None:
        setattr(leaf, _LABEL, place)
    return leaf
