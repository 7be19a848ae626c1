"""The mean of the weights that a training passes through, which validation and the result use."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config.averaging import Averaging, ExponentialAveraging


class Average:
    """The mean of what is trained over the steps of one training, as `train.averaging` says.

    Args:
        parameters: what is trained.
        how: exponentially, from the first step on, or alike, from a share of the steps on.
        steps: of the whole training.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], how: Averaging, steps: int
    ) -> None:
        self._parameters = torch.nn.ParameterList(parameters)
        if isinstance(how, ExponentialAveraging):
            self._after, weighed = 0, get_ema_multi_avg_fn(how.decay)
        else:
            self._after, weighed = int(how.start * steps), None
        mean = AveragedModel(self._parameters, multi_avg_fn=weighed)
        self._mean = mean.requires_grad_(False)

    def add(self, step: int) -> None:
        """Count what a step, from 1 on, has come to."""
        if step > self._after:
            self._mean.update_parameters(self._parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the parameters are the mean; before the first counted step, what they are."""
        if not int(self._mean.n_averaged):
            yield
            return
        own = [parameter.detach().clone() for parameter in self._parameters]
        try:
            _write(list(self._mean.module.parameters()), self._parameters)
            yield
        finally:
            _write(own, self._parameters)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The mean and how many steps it is of."""
        return self._mean.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._mean.load_state_dict(state)


@torch.no_grad()
def _write(tensors: Sequence[torch.Tensor], parameters: torch.nn.ParameterList) -> None:
    for tensor, parameter in zip(tensors, parameters, strict=True):
        parameter.copy_(tensor)
