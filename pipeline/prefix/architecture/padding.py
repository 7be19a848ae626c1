"""Whether a model counts the padding before a row's tokens as if it were tokens.

Most take `position_ids`, and so are told where a row begins, or go by distances alone. Decoders
that were made for an encoder (BART's and its kin) count places in the batch they are given, and an
index of keys may (`pipeline.prefix.architecture.choosing`).
"""

from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.choosing import chooses_by_place
from pipeline.prefix.architecture.miniature import VOCABULARY, miniature_of
from pipeline.prefix.architecture.parts import takes
from pipeline.prefix.errors import PrefixError

_TOLERANCE = 1e-4

_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def counts_padding(model: PreTrainedModel) -> bool:
    """Whether padding on the left changes a causal model's numbers, whatever the mask says.

    A model that is not told positions is tried on a small one of its architecture; one that cannot
    be tried is taken to.
    """
    if model not in _tried:
        told = takes(model, "position_ids")
        _tried[model] = chooses_by_place(model) if told else _changes(model)
    return _tried[model]


@torch.no_grad()
def _changes(model: PreTrainedModel) -> bool:
    ids = torch.arange(3)[None] + VOCABULARY // 2
    try:
        small = miniature_of(model)
        alone = small(input_ids=ids, use_cache=False).logits
        padded = small(
            input_ids=nn.functional.pad(ids, (2, 0)),
            attention_mask=torch.tensor([[0, 0, 1, 1, 1]]),
            use_cache=False,
        ).logits[:, 2:]
    except (PrefixError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return True
    return not bool((padded - alone).abs().max() / alone.abs().max() < _TOLERANCE)
