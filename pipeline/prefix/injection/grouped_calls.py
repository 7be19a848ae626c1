"""Forward calls of a causal model that are several passes, where padding before rows demands it.

The decision is taken by the hook that begins a call; what then stands in for the model's forward
calls the model again for each group of rows (`pipeline.prefix.injection.row_groups`). It stands
there only while a prefix is at work, and acts in its thread alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.one_pass import is_one_pass_asked
from pipeline.prefix.architecture.padding import counts_padding
from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.admission import Admission
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.exactness import Injected
from pipeline.prefix.injection.layer_calls import LayerCalls
from pipeline.prefix.injection.layout import distance_counts_keys
from pipeline.prefix.injection.row_groups import computed_in_groups
from pipeline.prefix.injection.state_rows import has_gaps, why_states_bear_no_padding_before
from pipeline.prefix.parameters.config import PrefixConfig


class GroupedCalls(LayerCalls):
    """The hooks of a causal model's layers, and a forward that may be several.

    Args:
        trial_on: another prefix of a model with some shapes, as `Admission` asks for it.
        on_trial: whether this is such a prefix, of which nothing more is tried.
        tries_groups: whether what is on trial is computed by groups where one pass errs.
    """

    _first: int
    """The position of a text's first token."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: PrefixConfig,
        shapes: CacheShapes,
        trial_on: Callable[..., Injected],
        on_trial: bool,
        tries_groups: bool,
    ) -> None:
        super().__init__(model, config, shapes)
        self._ordered = distance_counts_keys(model.config)
        self._on_trial = on_trial
        self._tries_groups = tries_groups
        self._pads_exactly: bool | None = None
        self._admission = Admission(model, shapes, self._chosen.kinds, trial_on)

    @contextmanager
    def active(self) -> Iterator[None]:
        with super().active(), self._forward_in_groups():
            yield

    def pads_exactly(self) -> bool:
        """Whether padding before a row changes nothing that it would not change after a text."""
        if self._pads_exactly is None:
            with self._resting():
                self._pads_exactly = self._admission.pads_exactly(self._first)
        return self._pads_exactly

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """The model without the prefix, for trials of others within a call."""
        active, self._at_work.active = self._at_work.active, False
        try:
            yield
        finally:
            self._at_work.active = active

    @contextmanager
    def _forward_in_groups(self) -> Iterator[None]:
        """The model with a forward that is several where `_before_model` says so."""
        here, own = vars(self._model), vars(self._model).get("forward")
        forward = self._model.forward

        @wraps(forward)
        def in_groups(*args: Any, **kwargs: Any) -> Any:
            # In a thread beside, or within a group, there is none.
            cache, self._at_work.in_groups = self._at_work.in_groups, None
            if cache is None:
                return forward(*args, **kwargs)
            return computed_in_groups(
                self._model, kwargs, cache, self.cache_name, self._goes_on, self._ordered
            )

        here["forward"] = in_groups
        try:
            yield
        finally:
            del here["forward"]
            if own is not None:
                here["forward"] = own

    def _goes_in_groups(self, cache: PrefixCache, mask: torch.Tensor, past: int) -> bool:
        """Whether rows are computed by groups, since padding is before some and one pass errs.

        Raises PrefixError where they can be computed in no way.
        """
        if cache.is_joined or cache.apart is not None:
            if has_gaps(mask):
                raise PrefixError(
                    f"{type(self._model).__name__}: rows that were computed by groups go on with "
                    "tokens that have no padding between them; give a cache rows of one length "
                    "from call to call"
                )
            return cache.apart is not None
        if bool(mask[:, 0].all()):
            return False
        if (reason := self._why_not_in_one_pass(cache, past)) is None:
            return False
        if past or is_one_pass_asked() or (self._on_trial and not self._tries_groups):
            raise PrefixError(f"{reason}; give rows of one length, or pad on the right")
        return True

    def _why_not_in_one_pass(self, cache: PrefixCache, past: int) -> str | None:
        """Why a row with padding before it is not, in one pass, what it is alone; None if it is."""
        name = type(self._model).__name__
        if counts_padding(self._model):
            return f"{name} counts the padding before a row as its tokens"
        if self._shapes.states:
            reason = why_states_bear_no_padding_before(self._model, cache, self._ordered)
            if reason is not None:
                return reason
        if past or self._on_trial or self.pads_exactly():
            return None
        return (
            f"{name} computes something else after a prefix than after the same text where padding "
            "stands before a row"
        )

    def _goes_on(self) -> bool:
        """Whether rows that were computed by groups can be decoded from one cache."""
        if self._tries_groups:
            return True
        with self._resting():
            return self._admission.goes_on()
