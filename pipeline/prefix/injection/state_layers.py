"""Layers of a prefix's cache whose model goes on from a state."""

from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from pipeline.prefix.injection.prefix_layer import Pair, PrefixLayer
from pipeline.prefix.states import CONV

States = dict[tuple[str, int], torch.Tensor]
"""A layer's states without a batch dimension, by kind and number."""


class StateLayer(LinearAttentionCacheLayerMixin):
    """One recurrent layer: the states that it starts from, then those of the input's tokens.

    transformers' own copies new states into the tensors of the old ones, which backward still
    needs where a gradient reaches the old; here they take their place. A cache that does not grow
    (training) gives a copy of the prefix's states whenever it is asked, so that a layer which is
    recomputed starts from what it started from before.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, initial: States, number_of_states: int, growing: bool) -> None:
        super().__init__(number_of_states=number_of_states)
        self.initial = initial
        self.growing = growing
        self._remembered: list[Any] | None = None
        self._begin()

    def _begin(self) -> None:
        for number in range(self.number_of_states):
            given = any(held == number for _, held in self.initial)
            self.conv_states[number] = self.recurrent_states[number] = None
            self.has_previous_state[number] = given

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is laid out ahead."""

    def state(self, kind: str, number: int, rows: int) -> torch.Tensor | None:
        """The state `[rows, ...]` before the next token; None where the model starts anew.

        A cache that grows keeps what it gives: models overwrite it at single tokens.
        """
        held = self.conv_states if kind == CONV else self.recurrent_states
        if held[number] is not None:
            return held[number]
        if (initial := self.initial.get((kind, number))) is None:
            return None
        state = initial.expand(rows, *initial.shape).clone()
        if self.growing:
            held[number] = state
        return state

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """New inputs of a convolution `[rows, channels, tokens]`, after those kept before them."""
        before = self.state(CONV, state_idx, conv_states.shape[0])
        if before is None:
            size = conv_kernel_size or conv_states.shape[-1]
            missing = max(0, size - conv_states.shape[-1])
            inputs = torch.nn.functional.pad(conv_states, (missing, 0))
        else:
            size = before.shape[-1]
            inputs = torch.cat([before.to(conv_states.dtype), conv_states], dim=-1)
        if self.growing:
            self.conv_states[state_idx] = inputs[..., -size:].clone()
            self.has_previous_state[state_idx] = True
        return inputs

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """The state of a recurrence after the input's tokens."""
        if self.growing:
            self.recurrent_states[state_idx] = recurrent_states
            self.has_previous_state[state_idx] = True
        return recurrent_states

    def join(self, parts: "list[Any]", leading: list[int], places: torch.Tensor, at: int) -> None:
        """Take the states of groups of rows, which have no place for padding."""
        for name in ("conv_states", "recurrent_states"):
            held = getattr(self, name)
            for number in held:
                states = [getattr(part, name)[number] for part in parts]
                if all(state is not None for state in states):
                    whole = torch.cat(states)
                    held[number] = whole[places.to(whole.device)]
        self.has_previous_state.update(parts[0].has_previous_state)

    def reset(self) -> None:
        """Go back to the prefix's states."""
        self._begin()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows of a beam search's best beams."""
        self._each(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._each(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows alone."""
        self._each(lambda state: state[indices, ...])

    def _each(self, change: Any) -> None:
        for held in (self.conv_states, self.recurrent_states):
            held.update({n: change(state) for n, state in held.items() if state is not None})

    def offload(self) -> None:
        """Nothing: a state is small."""

    def prefetch(self) -> None:
        """Nothing: it was not offloaded."""

    def remember(self) -> None:
        """Keep the states as they are now for `crop`, in copies: models overwrite them."""
        kept = [
            {n: None if state is None else state.clone() for n, state in held.items()}
            for held in (self.conv_states, self.recurrent_states)
        ]
        self._remembered = [*kept, dict(self.has_previous_state)]

    def crop(self, tokens_to_remove: int) -> None:
        """Go back to before the last forward pass, whose tokens these are (`PrefixCache.crop`)."""
        assert self._remembered is not None
        self.conv_states, self.recurrent_states, self.has_previous_state = self._remembered
        self._remembered = None


class StateAndPrefixLayer(StateLayer, PrefixLayer):
    """One layer that recurs and attends."""

    is_compileable = False
    is_croppable = False

    def __init__(self, initial: States, number_of_states: int, pair: Pair, growing: bool) -> None:
        PrefixLayer.__init__(self, pair, growing)
        StateLayer.__init__(self, initial, number_of_states, growing)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """As a layer with keys and values alone, which is asked with both of them."""
        PrefixLayer.lazy_initialization(self, *args, **kwargs)

    def reset(self) -> None:
        """Go back to the prefix."""
        StateLayer.reset(self)
        PrefixLayer.reset(self)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows of a beam search's best beams."""
        StateLayer.reorder_cache(self, beam_idx)
        PrefixLayer.reorder_cache(self, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        StateLayer.batch_repeat_interleave(self, repeats)
        PrefixLayer.batch_repeat_interleave(self, repeats)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows alone."""
        StateLayer.batch_select_indices(self, indices)
        PrefixLayer.batch_select_indices(self, indices)

    def join(self, parts: list[Any], leading: list[int], places: torch.Tensor, at: int) -> None:
        """Take what layers of groups of rows hold."""
        StateLayer.join(self, parts, leading, places, at)
        PrefixLayer.join(self, parts, leading, places, at)

    def crop(self, tokens_to_remove: int) -> None:
        """Go back to before the last forward pass, whose tokens these are."""
        StateLayer.crop(self, tokens_to_remove)
        PrefixLayer.crop(self, tokens_to_remove)
