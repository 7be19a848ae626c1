"""Where torch's generators stand, of each training apart from whoever takes turns with it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class RandomNumbers:
    """A training's own: they go on where it stopped, whatever others drew meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._own = device, random_states(device)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Within it torch's generators are these."""
        others = random_states(self._device)
        restore_random_states(self._own, self._device)
        try:
            yield
        finally:
            self._own = random_states(self._device)
            restore_random_states(others, self._device)


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Where torch's generators stand that a training on `device` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """The inverse of `random_states`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])
