"""Whether a model counts the padding before a row's tokens as if it were tokens.

Most take `position_ids`, and so are told where a row begins, or go by distances alone. Decoders
that were made for an encoder (BART's and its kin) count places in the batch they are given.
"""

from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.miniature import VOCABULARY, miniature_of
from pipeline.prefix.architecture.parts import takes
from pipeline.prefix.errors import PrefixError

_TOLERANCE = 1e-4

_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def counts_padding(model: PreTrainedModel) -> bool:
    """Whether padding on the left changes a causal model's numbers, whatever the mask says.

    It is tried on a small model of the architecture; one that cannot be tried is taken to.
    """
    if takes(model, "position_ids"):
        return False
    if model not in _tried:
        _tried[model] = _changes(model)
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
