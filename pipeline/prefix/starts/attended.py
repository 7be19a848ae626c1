"""The tokens of a corpus that inputs attend to most, as a prefix.

A long text in the context, seen by training inputs, shows which of its tokens they make use of.
Those tokens' cached keys and values, computed within the whole text, become the prefix.
"""

from collections.abc import Iterable

import torch

from pipeline.prefix.attention import attention_by_place
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.starts.positions import moved_to_front


@torch.no_grad()
def attention_received(model: PrefixModel, inputs: Iterable[list[int]]) -> torch.Tensor:
    """How much attention each virtual token gets from the inputs, float64 `[p]`, summing to <= 1.

    The mean over inputs, their positions, layers and heads. Raises PrefixError for a model that
    cannot show its attention.
    """
    calls = ({"input_ids": torch.tensor([ids], device=model.device)} for ids in inputs)
    return attention_by_place(model, calls).tokens.mean(0)


def most_attended(
    model: PrefixModel, kv: KVPrefix, num_virtual_tokens: int, inputs: Iterable[list[int]]
) -> KVPrefix:
    """The `num_virtual_tokens` cached tokens of a corpus that `inputs` attend to most.

    They keep their order in the corpus and move together to positions 0 to p-1 (see
    `pipeline.prefix.starts.positions`). What begins the corpus' text (BOS) is always among them.

    Args:
        model: holds the whole corpus' KV cache as its prefix.
        kv: that prefix.
        num_virtual_tokens: how many of its tokens to choose.
        inputs: token ids of each training input.
    """
    if num_virtual_tokens > len(kv):
        raise PrefixError(
            f"the corpus has {len(kv)} cached tokens, fewer than the {num_virtual_tokens} virtual "
            "tokens asked for; use a longer corpus or a shorter prefix"
        )
    received = attention_received(model, inputs)
    if kv.begins_text:
        received[0] = float("inf")
    chosen = torch.topk(received, num_virtual_tokens).indices.sort().values
    picked = KVPrefix(
        tuple(key[:, chosen] for key in kv.keys), tuple(value[:, chosen] for value in kv.values)
    )
    with model.frozen() as frozen:
        moved = moved_to_front(frozen, picked, chosen.tolist())
    return moved.beginning_text(kv.begins_text)
