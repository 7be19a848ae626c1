"""The device that is measured: its time, its memory, its rate of products, and the model on it."""

import gc
import time
from statistics import median

import torch
from transformers import PreTrainedModel

from benchmarks.cuda.models import build, config_of


class Machine:
    """The device, its rate of products, and one frozen model at a time.

    Attributes:
        seconds: how long a system's steps are measured, after two that are not counted.
    """

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = device, small
        self.seconds = 0.1 if small else 3.0
        self._rate: float | None = None
        self._kept: tuple[str, PreTrainedModel] | None = None

    @property
    def on_cuda(self) -> bool:
        """Whether time passes on a GPU, and memory is its."""
        return self.device.startswith("cuda")

    @property
    def name(self) -> str:
        """The card's name."""
        return torch.cuda.get_device_name(self.device) if self.on_cuda else "CPU"

    def now(self) -> float:
        """Seconds, once all that was begun has ended."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def rate(self) -> float:
        """Floating-point operations a second of a bfloat16 product: the median of 30."""
        if self._rate is None:
            size = 128 if self.small else 8192
            left, right = (
                torch.randn(size, size, dtype=torch.bfloat16, device=self.device) for _ in range(2)
            )
            times = []
            for _ in range(40):
                began = self.now()
                left @ right
                times.append(self.now() - began)
            self._rate = 2 * size**3 / median(times[10:])
        return self._rate

    def model(self, shape: str) -> PreTrainedModel:
        """The frozen model of a shape, bfloat16; another one is let go before."""
        if self._kept is None or self._kept[0] != shape:
            self._kept = None
            self.free()
            made = build(config_of(shape, self.small), torch.bfloat16, self.device)
            self._kept = shape, made
        return self._kept[1]

    def held(self) -> int:
        """Bytes that tensors hold on the card; 0 on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.on_cuda else 0

    def forget_peak(self) -> None:
        """Measure the peak from here on."""
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self, resting: int) -> int | None:
        """Megabytes above `resting` at the most; None on a CPU."""
        if not self.on_cuda:
            return None
        return round((torch.cuda.max_memory_allocated(self.device) - resting) / 1e6)

    def free(self) -> None:
        """Give memory that nothing holds back to the device."""
        # Modules and their hooks hold each other.
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()
