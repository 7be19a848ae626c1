"""Whether a prefix has an exact place in a causal model, and which: tried before it is brought in.

What a prefix is of tokens alone, beside padding, and beside inputs that are no tokens is each an
answer of its own, found by a trial (`pipeline.prefix.injection.exactness`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from pipeline.prefix.architecture.context import first_positions
from pipeline.prefix.architecture.parts import looks_ahead, on_tokens_alone
from pipeline.prefix.architecture.shapes import CacheShapes, cache_of
from pipeline.prefix.caches import length_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.exactness import (
    Injected,
    is_exact,
    padded_call,
    writes_as_it_reads,
)
from pipeline.prefix.injection.going_on import goes_on_exactly
from pipeline.prefix.injection.states_read import why_states_are_not_read

TYPES = ("token_type_ids", "mm_token_type_ids")
"""Which tokens are an image's: where masks are made of them, they stand beside the keys."""


class Admission:
    """What trials say of a model's prefixes.

    Args:
        model: the frozen model.
        shapes: of what it caches.
        kinds: what the prefix is made of.
        trial_on: another prefix of a model with such shapes, brought in as its own is; it takes
            too whether a call's types of tokens move, and the position of a text's first token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shapes: CacheShapes,
        kinds: tuple[str, ...],
        trial_on: Callable[..., Injected],
    ) -> None:
        self._model = model
        self._shapes = shapes
        self._kinds = kinds
        self._trial_on = trial_on

    def first_position(self) -> int:
        """The position that the model gives to a text's first token.

        Raises PrefixError, with the reason, for a model in which no prefix is a text.
        """
        if "state" in self._kinds:
            with on_tokens_alone(self._model):
                reason = why_states_are_not_read(self._model, self._trial_on)
            if reason is not None:
                raise PrefixError(reason)
        for first in first_positions(self._model):
            trial = self._trial(False, first)
            exact = is_exact(self._model, trial, way=f"from {first}", kinds=self._kinds)
            if exact and (first == 0 or writes_as_it_reads(self._model)):
                return first
        raise PrefixError(
            f"{type(self._model).__name__} computes something else after a prefix than after the "
            f"same text: it {self._cause()}, so a prefix has no exact place in it"
        )

    def _cause(self) -> str:
        """Why no prefix is a text, as far as it shows."""
        # What it caches of one token.
        if more := (length_of(cache_of(self._model, 1)) or 1) - 1:
            return f"puts {more} tokens of its own before every input"
        if looks_ahead(self._model):
            return "looks ahead"
        return "counts positions in a way of its own, or computes with more than what it caches"

    def pads_exactly(self, first: int) -> bool:
        """Whether padding before a row changes nothing that it would not change after a text."""
        return is_exact(
            self._model,
            self._trial(False, first),
            padded_call(self._model, first),
            "padded",
            self._kinds,
        )

    def goes_on(self) -> bool:
        """Whether rows that were computed by groups can be decoded from one cache."""
        tried = partial(self._trial_on, tries_groups=True)
        return goes_on_exactly(self._model, self._shapes, self._kinds, tried)

    def moves_types(self, others: frozenset[str], bound: dict[str, Any], first: int) -> bool:
        """Whether a call's types of tokens move, for a prefix to be exact beside its other inputs.

        Raises PrefixError, which names these inputs (`others`), where it is exact in no way.
        """
        # Where they make a mask, half precision could take what is not moved for rounding.
        ways = (True, False) if any(bound.get(name) is not None for name in TYPES) else (False,)
        for moves in ways:
            trial = self._trial(moves, first)
            if is_exact(self._model, trial, bound, f"types moved: {moves}"):
                return moves
        raise PrefixError(
            f"{type(self._model).__name__} computes something else with "
            f"{', '.join(sorted(others))} after a prefix than after the same text; give it tokens "
            "alone"
        )

    def _trial(self, moves_types: bool, first: int) -> Injected:
        return self._trial_on(self._model, self._shapes, moves_types, first)
