"""Whether a model goes on from a state that it is given, when it reads several tokens at once.

Mamba's and Jamba's selective scan begins anew with every call of several tokens, whatever the cache
holds: the state is used for single tokens alone, in decoding. No name says so; it is tried on a
small model of the architecture, whose weights are drawn so that every state shows.
"""

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.cached import prefix_of
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.miniature import miniature_of
from pipeline.prefix.architecture.parts import evaluating
from pipeline.prefix.architecture.shapes import CacheShapes, cache_argument_of, cache_shapes
from pipeline.prefix.caches import empty_cache
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.exactness import Injected
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.states import parts_of_name

_TEXT_LENGTH, _INPUT_LENGTH = 2, 4
# Far from any state of a model's own, so that no rounding hides it.
_FAR = 100

_tried: WeakKeyDictionary[nn.Module, list[str | None]] = WeakKeyDictionary()


def why_states_are_not_read(
    model: PreTrainedModel, trial_on: Callable[[PreTrainedModel, CacheShapes], Injected]
) -> str | None:
    """Why a prefix's states would do nothing, in a sentence; None where a model reads them.

    `trial_on` says how a prefix is brought into a model of some shapes.
    """
    if model not in _tried:
        _tried[model] = [_why_not(model, trial_on)]
    return _tried[model][0]


def _why_not(
    model: PreTrainedModel, trial_on: Callable[[PreTrainedModel, CacheShapes], Injected]
) -> str | None:
    try:
        kind, kv = _unread(small := miniature_of(model), trial_on(small, cache_shapes(small)))
    except (PrefixError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # No small model can be made or run: the model itself says it as well, where it is trained.
        kind, kv = _unread(model, trial_on(model, cache_shapes(model)))
    if kind is None:
        return None
    name = type(model).__name__
    reason = (
        f"{name} reads several tokens at once without its {kind} state, which it uses for single "
        "tokens alone, so a prefix of states is not the text that it was made from"
    )
    if not kv.keys:
        return f"{reason}, and {name} has nothing else to be prefixed"
    return f"{reason}; choose keys and values alone (kinds: attention), which are not that either"


@torch.no_grad()
def _unread(model: PreTrainedModel, injected: Injected) -> tuple[str | None, KVPrefix]:
    """The first kind of state that the outputs do not depend on, and a prefix of the model."""
    half = int(model.config.get_text_config().vocab_size) // 2
    ids = torch.arange(half, half + _TEXT_LENGTH + _INPUT_LENGTH, device=input_device(model))[None]
    cache = empty_cache(model.config)

    def after(kv: KVPrefix) -> torch.Tensor:
        with injected(kv):
            output: torch.Tensor = model(input_ids=ids[:, _TEXT_LENGTH:], use_cache=False)[0]
        return output

    with evaluating(model):
        text = ids[:, :_TEXT_LENGTH]
        model(input_ids=text, use_cache=True, **{cache_argument_of(model): cache})
        kv = prefix_of(cache, _TEXT_LENGTH)
        usual = after(kv)
        kinds = {name: parts_of_name(name)[1] for name in kv.states}
        for kind in dict.fromkeys(kinds.values()):
            far = {n: _FAR - s if kinds[n] == kind else s for n, s in kv.states.items()}
            if torch.equal(usual, after(replace(kv, states=far))):
                return kind, kv
    return None, kv
