"""The mean of several prefixes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix


def mean_kv_prefix(prefixes: Sequence[KVPrefix]) -> KVPrefix:
    """The prefix whose every number is the mean of that number in several of one length.

    Virtual token i is the mean of their tokens i. Those stand at one position, so that keys are
    averaged as they are rotated; and of all prefixes it is the one from which these are, by squared
    distances, least far. States are averaged too; ids of tokens that a layer remembers are the
    first one's. It begins a text where all of them do.

    Raises:
        PrefixError: for no prefix, and for prefixes of unlike shapes.
    """
    if not prefixes:
        raise PrefixError("no prefix whose mean could be taken; give at least one")
    first = prefixes[0]
    for other in prefixes[1:]:
        if _shapes(other) != _shapes(first):
            raise PrefixError(
                "prefixes of unlike shapes have no mean; compute all of them with one model, and "
                "of one length"
            )
    names = first.states
    mean = replace(
        first,
        keys=tuple(map(_mean, zip(*(kv.keys for kv in prefixes), strict=True))),
        values=tuple(map(_mean, zip(*(kv.values for kv in prefixes), strict=True))),
        states={name: _mean(kv.states[name] for kv in prefixes) for name in names},
        metadata={},
        modules={},
    )
    return mean.beginning_text(all(kv.begins_text for kv in prefixes))


def _shapes(kv: KVPrefix) -> tuple[object, ...]:
    states = {name: state.shape for name, state in kv.states.items()}
    return len(kv), kv.shapes, kv.layers, kv.parts, states


def _mean(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    first, *_ = several = list(tensors)
    return torch.stack(several).mean(0) if first.is_floating_point() else first
