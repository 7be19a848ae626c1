"""Models that count positions in time and space (M-RoPE: Wang et al. 2024, arXiv 2409.12191).

An image takes other positions than as many tokens would, and the text after it goes on from there.
Such a model keeps how far that is from counting tokens as an attribute, from one call to the next,
whoever calls: another conversation, or a text alone, would go on from an image it never saw.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

# What transformers calls the two ways of counting, and what it adds to the positions that follow.
_OF_A_CALL, _OF_TOKENS, _OFFSET = "compute_3d_position_ids", "get_rope_index", "rope_deltas"
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


class SpatialPositions:
    """How a model counts positions in time and space; of most models, that it does not."""

    def __init__(self, model: PreTrainedModel) -> None:
        parts: list[Any] = [part for part in model.modules() if hasattr(part, _OF_TOKENS)]
        self._counting = parts
        self._keeping = next((part for part in parts if hasattr(part, _OF_A_CALL)), None)
        # A token of text, to stand for those of a prefix.
        self._token = int(getattr(model.config.get_text_config(), "vocab_size", 0)) // 2

    @property
    def offset(self) -> torch.Tensor | None:
        """What is added to the positions of each row's next tokens, `[batch, 1]`; None before."""
        found: torch.Tensor | None = getattr(self._keeping, _OFFSET, None)
        return found

    @offset.setter
    def offset(self, offset: torch.Tensor | None) -> None:
        if self._keeping is not None:
            setattr(self._keeping, _OFFSET, offset)

    def of_call(self, given: dict[str, Any]) -> torch.Tensor | None:
        """The positions `[axes, batch, tokens]` of a call's tokens; None where text is all it has.

        What a call needs beyond its inputs `given` is left to the model.
        """
        if self._keeping is None:
            return None
        count = getattr(self._keeping, _OF_A_CALL)
        names = inspect.signature(count).parameters
        found: torch.Tensor | None = count(**{name: given.get(name) for name in names})
        return found

    @contextmanager
    def after(self, p: int) -> Iterator[None]:
        """Within it a sequence is counted as after p tokens of text, and p is taken off again.

        An image's positions may go on from the text's, or be its own wherever it stands. Nothing
        that was seen before is known within, nor is afterwards what was seen within.
        """
        own = [vars(part).get(_OF_TOKENS) for part in self._counting]
        offset, self.offset = self.offset, None
        for part in self._counting:
            vars(part).pop(_OF_TOKENS, None)
            if p:
                setattr(part, _OF_TOKENS, self._after_text(getattr(part, _OF_TOKENS), p))
        try:
            yield
        finally:
            self.offset = offset
            for part, before in zip(self._counting, own, strict=True):
                vars(part).pop(_OF_TOKENS, None)
                if before is not None:
                    setattr(part, _OF_TOKENS, before)

    def _after_text(self, count: Any, p: int) -> Any:
        fills = dict(zip(_PER_TOKEN, (self._token, 1, 0), strict=True))

        def counted(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            given = inspect.signature(count).bind(*args, **kwargs).arguments
            given |= given.pop("kwargs", {})
            for name, fill in fills.items():
                if (value := given.get(name)) is not None:
                    given[name] = nn.functional.pad(value, (p, 0), value=fill)
            positions, offset = count(**given)
            return positions[..., p:] - p, offset

        return counted
