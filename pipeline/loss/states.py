"""Targets by the hidden states that predict them, of which logits are made a chunk at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.loss.causal import TargetLoss
from pipeline.loss.output_layer import left_out, output_layer_of
from pipeline.prefix import PrefixModel
from pipeline.prefix.architecture.turns import turn_of

# The logits of so many positions are there at once: as many as keep a matrix product busy.
_ROWS_OF_A_CPU, _ROWS_OF_A_GPU = 128, 1024


class TargetStates(TargetLoss):
    """Of `TargetLoss` what predicts each target: hidden states, and `logits` of them.

    Where the model does more with its output layer's result than hand it on, or that layer is
    trained or sharded, the states are the logits themselves, all at once.
    """

    def __init__(self, model: PrefixModel) -> None:
        super().__init__(model)
        self.layer = output_layer_of(model.frozen_model)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        if self.layer is None:
            yield
            return
        with turn_of(self.model.frozen_model), left_out(self.layer):
            yield

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `[rows, vocabulary]` of states `[rows, size]`."""
        if self.layer is None:
            return states
        logits: torch.Tensor = self.layer(states)
        return logits


def chunks(states: torch.Tensor) -> Iterator[slice]:
    """The rows of states whose logits are made at once, one chunk after the other."""
    size = _ROWS_OF_A_CPU if states.device.type == "cpu" else _ROWS_OF_A_GPU
    return (slice(start, start + size) for start in range(0, len(states), size))
