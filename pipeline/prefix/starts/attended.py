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
    return picked(model, kv, places_attended(model, kv, num_virtual_tokens, inputs))


def places_attended(
    model: PrefixModel, kv: KVPrefix, num_virtual_tokens: int, inputs: Iterable[list[int]]
) -> list[int]:
    """Where in a corpus the tokens stand that `most_attended` chooses, ascending.

    Arguments are those of `most_attended`.
    """
    if num_virtual_tokens > len(kv):
        raise PrefixError(
            f"the corpus has {len(kv)} cached tokens, fewer than the {num_virtual_tokens} virtual "
            "tokens asked for; use a longer corpus or a shorter prefix"
        )
    received = attention_received(model, inputs)
    if kv.begins_text:
        received[0] = float("inf")
    return torch.topk(received, num_virtual_tokens).indices.sort().values.tolist()


def picked(model: PrefixModel, kv: KVPrefix, chosen: list[int]) -> KVPrefix:
    """The tokens of a corpus that stand at `chosen`, ascending, moved together to the front.

    Raises PrefixError for a corpus with states, which are of all its tokens at once.
    """
    if kv.states:
        raise PrefixError(
            "tokens cannot be chosen from a prefix with states, which stand for all of its text at "
            "once; choose keys and values alone (kinds: attention), or start from a text"
        )
    of_them = KVPrefix(
        tuple(key[:, chosen] for key in kv.keys),
        tuple(value[:, chosen] for value in kv.values),
        layers=kv.layers,
    )
    with model.frozen() as frozen:
        moved = moved_to_front(frozen, of_them, chosen)
    return moved.beginning_text(kv.begins_text)
