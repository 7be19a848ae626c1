"""How a prefix is parametrised; names follow PEFT's where the thing is the same."""

from dataclasses import dataclass
from typing import Literal

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import KINDS

PARTS = ("encoder", "decoder", "cross")
"""Encoder self-attention, decoder self-attention, and the decoder's attention to the encoder's
output; in this order wherever several stand together."""


@dataclass(frozen=True)
class PrefixConfig:
    """The configuration of a prefix encoder.

    Args:
        num_virtual_tokens: the prefix length p, at least 1.
        prefix_projection: reparametrise the prefix by an embedding and a two-layer MLP (Li and
            Liang 2021, section 4.3) in place of training the keys and values themselves.
        encoder_hidden_size: width of that MLP's hidden layer; None for the model's hidden size.
        init_weights: None draws the start as PEFT does, from a standard normal distribution;
            "zero" starts from keys and values of zero.
        num_frozen_tokens: how many of the first virtual tokens stay as they start. An attention
            sink that training would otherwise move keeps its place (Cartridges, section 4).
        prefix_dropout: probability in [0, 1) of zeroing each number of the keys and values in
            training, the others scaled up, as the paper's own code has it.
        layers: indices of the layers that get a prefix; None for all.
        parts: which parts of an encoder-decoder get a prefix, of "encoder" (its self-attention),
            "decoder" (its self-attention) and "cross" (the decoder's attention to the encoder's
            output); None for every part that the model has, which is the paper's method (Li and
            Liang 2021, Figure 2). ("decoder",) alone is what PEFT does. A model that is a decoder
            alone has only that part, one that is an encoder alone only "encoder".
        modules_to_save: names of the frozen model's modules (a classifier's head) of which a copy
            is trained and saved with the prefix; the model's own stay as they are.
        prefix_always_visible: let sliding-window layers see the prefix from any distance. By
            default a window hides it as it would hide a text at the same place, so that a prefix
            started from a text is exactly that text in the context.
        kinds: what a prefix is made of where layers recur: "attention" (keys and values), "state"
            (what convolutions and recurrences start from), or both; None for all that the model
            has. Only all of it is exactly a text: keys and values alone are those of a text whose
            recurrent layers begin anew after it, states alone those of a text that attention does
            not see, with the input's positions from 0 on.

    Raises:
        PrefixError: for a value outside these bounds.
    """

    num_virtual_tokens: int
    prefix_projection: bool = False
    encoder_hidden_size: int | None = None
    init_weights: Literal["zero"] | None = None
    num_frozen_tokens: int = 0
    prefix_dropout: float = 0.0
    layers: tuple[int, ...] | None = None
    prefix_always_visible: bool = False
    parts: tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_virtual_tokens < 1:
            raise PrefixError(
                f"num_virtual_tokens is {self.num_virtual_tokens}; a prefix has at least 1"
            )
        if not 0 <= self.num_frozen_tokens < self.num_virtual_tokens:
            raise PrefixError(
                f"num_frozen_tokens is {self.num_frozen_tokens}; it must be from 0 to "
                f"{self.num_virtual_tokens - 1}, so that a virtual token is left to train"
            )
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise PrefixError("encoder_hidden_size has a meaning only with prefix_projection=True")
        if not 0.0 <= self.prefix_dropout < 1.0:
            raise PrefixError(f"prefix_dropout is {self.prefix_dropout}; it must be in [0, 1)")
        if self.init_weights not in (None, "zero"):
            raise PrefixError(f"init_weights is '{self.init_weights}'; it must be None or 'zero'")
        if self.parts is not None:
            parts = tuple(part for part in PARTS if part in self.parts)
            if not parts or len(parts) != len(self.parts):
                raise PrefixError(
                    f"parts is {list(self.parts)}; give different ones of {', '.join(PARTS)}, "
                    "or None"
                )
            object.__setattr__(self, "parts", parts)
        if self.kinds is not None:
            kinds = tuple(kind for kind in KINDS if kind in self.kinds)
            if not kinds or len(kinds) != len(self.kinds):
                raise PrefixError(
                    f"kinds is {self.kinds!r}; give a tuple of different ones of "
                    f"{', '.join(KINDS)}, or None"
                )
            object.__setattr__(self, "kinds", kinds)
        if self.layers is not None:
            chosen = tuple(sorted(set(self.layers)))
            if not chosen or len(chosen) != len(self.layers) or chosen[0] < 0:
                raise PrefixError(
                    f"layers is {list(self.layers)}; give different indices from 0 on, or None"
                )
            object.__setattr__(self, "layers", chosen)

    def untrained(self, num_virtual_tokens: int) -> "PrefixConfig":
        """Where such a prefix stands and how it is seen, without what is of its training alone."""
        return PrefixConfig(
            num_virtual_tokens,
            layers=self.layers,
            parts=self.parts,
            kinds=self.kinds,
            prefix_always_visible=self.prefix_always_visible,
        )
