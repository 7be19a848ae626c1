"""The frozen model as a prefix's training and measuring compute with it: packed, or recomputed.

Both are ways for the same numbers. Packed rows are the fast one; recomputing layers in the backward
pass takes less memory. Neither has the frozen model's own dropout.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.devices import on_its_layers
from pipeline.prefix.architecture.padded_rows import Side, padding_side
from pipeline.prefix.architecture.padding import counts_padding
from pipeline.prefix.architecture.parts import evaluating, is_decoder_only
from pipeline.prefix.architecture.reach import reach_of, rotary_switch, window_of
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.caches import recurs
from pipeline.prefix.injection.recomputation import Recomputation
from pipeline.prefix.injection.replay import replayed_within
from pipeline.prefix.packed.gate import why_not_packed
from pipeline.prefix.packed.logits import packed_attention_on, packed_logits
from pipeline.prefix.packed.masks import NotPackableError
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import NoEncoder, PrefixEncoder
from pipeline.prefix.parameters.flat import Shapes
from pipeline.prefix.trainer_model import TrainerModel

# Virtual tokens of the prefix that padding is tried with.
_TRIED = 3


class PackedModel(TrainerModel):
    """A module around a `frozen_model` that packs rows, and recomputes layers where asked."""

    def __init__(self, frozen_model: PreTrainedModel, config: PrefixConfig | None) -> None:
        # Without a prefix it is the model itself that is trained.
        super().__init__(frozen_model, saves_frozen_model=config is None)
        self.prefix_config = config
        self.encoder: PrefixEncoder | NoEncoder = NoEncoder()
        self._recomputation = Recomputation(frozen_model)
        self._why_not_packed: dict[tuple[bool, int], str | None] = {}

    @property
    @abstractmethod
    def kv_shapes(self) -> Shapes:
        """For each place of a prefix `(num_kv_heads, head_dim)` of keys and of values."""

    @property
    @abstractmethod
    def pads_exactly(self) -> bool:
        """Whether one pass with padding before a row leaves the prefix what the text would be."""

    @property
    @abstractmethod
    def hidden(self) -> torch.Tensor | None:
        """Virtual tokens that are hidden (`PrefixModel.without`), boolean `[places, p]`."""

    @property
    def config(self) -> Any:
        """The frozen model's configuration, as transformers' tools expect it."""
        return self.frozen_model.config

    @property
    def prefix_length(self) -> int:
        """Virtual tokens before every input; 0 without a prefix."""
        return 0 if self.prefix_config is None else self.prefix_config.num_virtual_tokens

    @property
    def prefix_always_visible(self) -> bool:
        """Whether layers with sliding windows see the prefix from any distance."""
        return self.prefix_config is not None and self.prefix_config.prefix_always_visible

    def why_not_packed(self, decoding: bool = False, tokens: int = 0) -> str | None:
        """Why packed rows do not serve this model, in a clause; None where they do.

        `tokens` are those of an example (generated ones included), since what an architecture does
        may change with the length; `decoding` asks for greedy decoding of packed rows too. See
        `pipeline.prefix.packed.gate`.
        """
        if decoding and self.hidden is not None:
            return "virtual tokens are hidden, which packed rows do not know in decoding"
        with turn_of(self.frozen_model):
            # A model without a prefix is trained with its own dropout.
            key = self.frozen_model.training, tokens
            if key not in self._why_not_packed:
                reason = why_not_packed(self.frozen_model, self.prefix_config, tokens)
                self._why_not_packed[key] = reason
            return self._why_not_packed[key] or self._why_not_replayed()

    @cached_property
    def keeps_states(self) -> bool:
        """Whether some layer of the frozen model carries a state from token to token."""
        return is_decoder_only(self.frozen_model) and recurs(self.config)

    @property
    def state_parameters(self) -> list[nn.Parameter]:
        """Those of the parameters that are initial states, which have a rate of their own."""
        states = getattr(self.encoder, "states", None)
        return [] if states is None else list(states.parameters())

    @cached_property
    def padding(self) -> Side | None:
        """The side on which rows of unlike length are padded, for one pass to serve them.

        "left", where targets end together and rows can be decoded together; "right", where padding
        before a row would change its states, or what the prefix is in it; None for rows of one
        length alone. See `pipeline.prefix.architecture.padded_rows`.
        """
        config = self.prefix_config
        if config is None and is_decoder_only(self.frozen_model):
            side = padding_side(self.frozen_model, type(self), None)
            # What only attends, and cannot be tried, is taken to mask its padding.
            return side if self.keeps_states else side or "left"
        if config is None or not self.keeps_states:
            return "left" if self.pads_exactly else "right"
        kind = type(self)
        tried = replace(
            config,
            num_virtual_tokens=_TRIED,
            num_frozen_tokens=0,
            prefix_projection=False,
            encoder_hidden_size=None,
            prefix_dropout=0.0,
            layers=None,
            modules_to_save=(),
        )
        return padding_side(self.frozen_model, lambda small: kind(small, tried), tried)

    def padding_group(self, tokens: int, padded: int | None = None) -> int:
        """A number that examples share which can be padded together without changing each other.

        Some models rotate all rows of a batch by what the longest asks for; others, and Llama 4 in
        long rows, count a token's place with the padding before it; padding before a row changes
        the states of a third kind, or what the prefix is in it, and some it changes wherever it
        stands. `padded` are the example's tokens that are padded on the left to a common length, to
        be decoded; without it all of them are padded on the side of `padding`.
        """
        side = self.padding
        if side is None or (side == "right" and padded is not None):
            return tokens if padded is None else padded
        row, switch = reach_of(self.config).row, rotary_switch(self.config)
        whole = self.prefix_length + tokens
        if (row is not None and whole > row) or counts_padding(self.frozen_model):
            return tokens if padded is None else padded
        return int(switch is not None and whole > switch)

    @property
    def most_packed(self) -> int | None:
        """The most tokens of one packed row; None for any number."""
        row = reach_of(self.config).row
        return None if row is None else row - self.prefix_length

    def packed_logits(
        self, input_ids: torch.Tensor, lengths: list[int], keep: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[n, vocabulary]` at the positions `keep` of examples packed without padding.

        The fast way of training and of measuring a loss: `input_ids` is `[tokens]`, examples one
        after another, `lengths` their tokens. The numbers are those of `forward`.

        Raises NotPackableError for examples beyond a window, where packed rows do not serve them.
        """
        longest, window = max(lengths), window_of(self.config)
        beyond = window is not None and self.prefix_length + longest > window
        if beyond and (reason := self.why_not_packed(tokens=longest)) is not None:
            raise NotPackableError(reason)
        with self.packing_rows():
            prefix, hidden = on_its_layers(self.encoder.given(), self.frozen_model), self.hidden
            return packed_logits(
                self.frozen_model,
                input_ids,
                lengths,
                prefix,
                keep,
                hidden=hidden,
                prefix_always_visible=self.prefix_always_visible,
            )

    @contextmanager
    def packing_rows(self) -> Iterator[None]:
        """Within it this thread computes packed rows with the frozen model, as in `packed_logits`.

        Layers recomputed in the backward pass find the packed attention again.
        """
        frozen = self.frozen_model
        replayed = replayed_within(lambda: (nullcontext(), packed_attention_on(frozen)))
        with turn_of(frozen), self._without_dropout(), replayed:
            yield

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **how: Any
    ) -> None:
        self._why_not_packed.clear()
        self._recomputation.refuse_without_layers()
        super().activation_checkpointing_enable(activation_checkpointing_kwargs, **how)

    def activation_checkpointing_disable(self) -> None:
        self._why_not_packed.clear()
        super().activation_checkpointing_disable()

    def _why_not_replayed(self) -> str | None:
        """Why layers that are recomputed would not meet packed rows again, in a clause.

        They do where they were asked for through this object, and a prefix's always.
        """
        if self.prefix_config is not None or self._recomputation.is_replayed:
            return None
        return "layers recomputed in the backward pass find the model's own attention again"

    @property
    def _recomputes(self) -> bool:
        return (
            self.prefix_config is not None
            and self.training
            and torch.is_grad_enabled()
            and self._recomputation.is_asked_for
        )

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """The frozen model without its dropout, whoever shares it, and recomputed where asked."""
        with ExitStack() as stack:
            if self.prefix_config is not None and self.frozen_model.training:
                stack.enter_context(evaluating(self.frozen_model))
            if self._recomputes:
                stack.enter_context(self._recomputation.active())
            yield
