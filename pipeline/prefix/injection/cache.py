"""The transformers `Cache` through which a prefix reaches every layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import Cache

from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.apart import CachesApart
from pipeline.prefix.injection.cache_layers import initial_states, layers_of
from pipeline.prefix.injection.index_layer import IndexLayer
from pipeline.prefix.injection.prefix_layer import PrefixLayer
from pipeline.prefix.injection.state_layers import StateLayer
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import CONV, RECURRENT


class PrefixCache(Cache):
    """The cache of one forward pass (`growing=False`) or of one generation (`growing=True`).

    `generate` slices its input by `get_seq_length`, and so must not see the prefix; the model's
    own forward computes positions from it, and so must. `inside_forward` says who is asking.

    Attributes:
        growing: whether the input's tokens are kept.
        prefix_length: virtual tokens that queries can attend to: 0 in a prefix of states alone.
        starts_from_states: whether some layer goes on from a state of the prefix.
        trains_states: whether a gradient reaches it.
        is_joined: whether it was filled by groups of rows, with nothing in the place of padding.
        apart: the caches of such groups, where they are computed each alone for good.

    Args:
        kv: the prefix.
        shapes: what every layer of the model caches. Keys and values of layers that the prefix
            leaves out are zeros, which the mask hides; recurrent ones begin anew.
        growing: whether to keep the input's tokens.
        without_states: layers whose states are left out too.
    """

    def __init__(
        self,
        kv: KVPrefix,
        shapes: CacheShapes,
        growing: bool,
        without_states: frozenset[int] = frozenset(),
    ) -> None:
        self._made_of = kv, shapes, growing, without_states
        self.growing = growing
        self.is_joined = False
        self.apart: CachesApart | None = None
        self.prefix_length = len(kv) if kv.keys else 0
        self.inside_forward = False
        # Whether the first tokens came with inputs that are none, such as images.
        self.after_others = False
        # Of a model that counts positions in time and space, what it adds to those that follow.
        self.offset: torch.Tensor | None = None
        self._tokens = 0
        self._arriving = 0
        self._rows = 1
        self._records = False
        self._last = 0
        initial = initial_states(kv, shapes, without_states)
        self.starts_from_states = bool(initial)
        self.trains_states = any(
            state.requires_grad for states_of in initial.values() for state in states_of.values()
        )
        self._attends = bool(shapes.attention)
        super().__init__(layers=layers_of(kv, shapes, initial, growing))

    def begin_forward(self, rows: int, tokens: int) -> None:
        """Say that a forward pass begins, of so many rows and new tokens of each."""
        self.inside_forward = True
        self._rows, self._arriving = rows, tokens
        for layer in self.layers:
            if isinstance(layer, IndexLayer):
                layer.begin(rows)
        if self._records:
            for layer in self._recurrent:
                layer.remember()

    def end_forward(self) -> None:
        """Say that it has ended; saying it twice says it once."""
        if not self.inside_forward:
            return
        self.inside_forward = False
        self._tokens += self._arriving if self.growing else 0
        self._last, self._arriving = self._arriving, 0

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within it a layer runs again whose forward pass has ended."""
        before, self.inside_forward = self.inside_forward, True
        try:
            yield
        finally:
            self.inside_forward = before

    @property
    def tokens(self) -> int:
        """Columns of the input that it has been given, in forward passes that have ended."""
        return self._tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next query: the input's so far, and inside the model the prefix too."""
        # A model that recurs alone asks no layer, and rows apart are in none of this cache.
        by_layers = self._attends and self.apart is None
        tokens = int(super().get_seq_length(layer_idx)) if by_layers else self._tokens
        return tokens + self.prefix_length if self.inside_forward else tokens

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The last inputs of a convolution `[rows, channels, width]`; None where it begins anew."""
        return self._state(CONV, layer_idx, state_idx)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The state of a recurrence `[rows, ...]`; None where it begins anew."""
        return self._state(RECURRENT, layer_idx, state_idx)

    def _state(self, kind: str, layer_idx: int, number: int) -> torch.Tensor | None:
        layer = self.layers[layer_idx]
        if not isinstance(layer, StateLayer):
            raise ValueError(f"layer {layer_idx} has no {kind} state")
        return layer.state(kind, number, self._rows)

    def reset(self) -> None:
        """Forget the input's tokens."""
        super().reset()
        self._tokens = 0
        self.is_joined, self.apart = False, None

    def anew(self) -> "PrefixCache":
        """Another one after the same prefix, empty."""
        other = PrefixCache(*self._made_of)
        other._records = self._records
        return other

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows of a beam search's best beams."""
        if self.apart is None:
            super().reorder_cache(beam_idx)
        else:
            self.apart.take(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        if self.apart is None:
            super().batch_repeat_interleave(repeats)
        else:
            self.apart.take(torch.arange(self.apart.rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows alone."""
        if self.apart is None:
            super().batch_select_indices(indices)
        else:
            self.apart.take(torch.arange(self.apart.rows)[indices.cpu()])

    @property
    def _recurrent(self) -> list[StateLayer]:
        return [layer for layer in self.layers if isinstance(layer, StateLayer)]

    def activate_past_recording(self) -> None:
        """Let `crop` take back the last forward pass from here on, at the cost of copied states."""
        self._records = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, of which there are `-tokens_to_remove`.

        Raises PrefixError where layers recur, but for those of the last forward pass after
        `activate_past_recording`: no token can be taken out of a state again.
        """
        if self.apart is not None:
            if -tokens_to_remove == self._tokens:
                self.reset()
                return
            self.apart.crop(tokens_to_remove)
            self._tokens += tokens_to_remove
            return
        if self._recurrent and tokens_to_remove:
            if not self._records or tokens_to_remove != -self._last:
                raise PrefixError(
                    "a recurrent state goes back by its last forward pass alone, and only after "
                    "cache.activate_past_recording(); generate without assisted decoding"
                )
            self._last = 0
        super().crop(tokens_to_remove)
        self._tokens += tokens_to_remove
        if not self._tokens:
            # Rows that come next are laid out anew: padding before them stands elsewhere.
            self.reset()

    def set_order(self, order: torch.Tensor | None) -> None:
        """The order `[batch, p + tokens]` in which the first pass puts prefix and tokens."""
        for layer in self.layers:
            if isinstance(layer, PrefixLayer):
                layer.order = order
