"""What is left out of a layer changes nothing before it: losses computed from that layer on.

The states that enter a layer are kept from the measurement before, which computed them, so that
leaving out one layer after the other costs half of what whole passes do, and gives the same bits.
Kept are those of one layer alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.prefix.architecture.turns import turn_of

Forward = Callable[..., Any]

_MOST_BYTES = 2**28


class KeptStates:
    """The states that enter a layer in one measurement, from which the next one begins.

    A measurement calls the model as often as the one before, for the same rows each time. Where a
    model is none of layers one after another, `is_usable` turns false and all of it is computed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        self._model, self._layers = model, layers
        self.is_usable = len(layers) == count
        """Whether measurements have begun at kept states so far."""
        self._at = 0
        self._states: list[torch.Tensor] = []

    def measured(self, layer: int, measure: Callable[[], float]) -> float:
        """What `measure` gives, which changes nothing before a layer.

        Layers come in ascending order. It begins at the layer of the call before.
        """
        if self.is_usable:
            try:
                with self._passing_over(layer):
                    return measure()
            except Exception:  # models raise whatever they like for what they were not made for
                self.is_usable = False
        return measure()

    def agree(self, measure: Callable[[], float], whole: float) -> bool:
        """Whether what is kept last gives, with nothing left out, what whole passes gave.

        True also where all that was measured were whole passes.
        """
        return not self._at or (self.measured(self._at, measure) == whole and self.is_usable)

    @contextmanager
    def _passing_over(self, layer: int) -> Iterator[None]:
        """Begin calls of the model at the kept layer, and keep what enters a later one."""
        kept: list[torch.Tensor] = []
        calls = 0

        def begun(number: int, own: Forward) -> Forward:
            def forward(states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += number == 0
                if number < self._at:
                    return states
                if number == self._at and number:
                    states = self._states[calls - 1]
                if number == layer:
                    _refuse_beyond(kept, states)
                    kept.append(states.clone())
                out = own(states, *args, **kwargs)
                if not isinstance(out, torch.Tensor):
                    raise TypeError("the layer gives more than states")
                return out

            return forward

        before = [each.__dict__.get("forward") for each in self._layers]
        with turn_of(self._model):
            for number, each in enumerate(self._layers):
                each.forward = begun(number, each.forward)
            try:
                yield
            finally:
                for each, own in zip(self._layers, before, strict=True):
                    if own is None:
                        del each.forward
                    else:
                        each.forward = own
        self._at, self._states = layer, kept


def _refuse_beyond(kept: list[torch.Tensor], states: torch.Tensor) -> None:
    if sum(each.nbytes for each in (*kept, states)) > _MOST_BYTES:
        raise MemoryError("the states take more memory than is worth it")
