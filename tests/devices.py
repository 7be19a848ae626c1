"""Running tests on another device, and what that device cannot do, on any.

`pytest tests/prefix --device cuda` (or `mps`, `cuda:1`, `cpu`) runs the laws of the method there.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

_TESTS = str(Path(__file__).resolve().parent)
_WIDE = (torch.float64, torch.complex128)

chosen = torch.device("cpu")
"""Where `tests/prefix` builds its models; other tests go by params.yaml."""


class OnDevice(TorchFunctionMode):
    """What a test makes lies on a device, as its models do; the library's tensors lie where it puts
    them.

    Values are made on the CPU, so that they are the same on every device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if (
            func in _device_constructors()
            and kwargs.get("device") is None
            and sys._getframe(1).f_code.co_filename.startswith(_TESTS)
        ):
            return made.to(self.device)
        return made


class _Host(torch.Tensor):
    """A tensor that was brought to the CPU."""


class LikeMPS(TorchFunctionMode):
    """Refuses float64, as Apple's MPS does, where a tensor was not brought to the CPU before."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu:
            return made.as_subclass(_Host)
        given = [one for one in args if isinstance(one, torch.Tensor)]
        on_device = [
            one
            for one in given
            if (one.is_floating_point() or one.is_complex())
            and one.dtype not in _WIDE
            and not isinstance(one, _Host)
        ]
        if isinstance(made, torch.Tensor) and made.dtype in _WIDE and on_device:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            )
        return made
