"""An engine's keys and values of real tokens beside transformers', before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp.key_order import KeyOrder, key_order
from pipeline.serving.llama_cpp.placeholders import placeholder_ids
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.state_format import StateFormat

_TOKENS = 32
"""Enough to tell the numbers of a key apart, and read at once on any machine."""


@dataclass(frozen=True)
class Verified:
    """What a server's cache is like, found on tokens that it and transformers read.

    Attributes:
        form: what a state file has to agree with.
        order: the order of its keys, and how far it is from transformers.
        tokens: how many tokens were read.
    """

    form: StateFormat
    order: KeyOrder
    tokens: int = _TOKENS

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        flash = "without flash attention" if self.form.transposed else "with flash attention"
        return (
            f"llama.cpp keeps keys {self.order.told}; of {self.tokens} tokens its keys differ from "
            f"transformers' by at most {self.order.keys:.2e} of their size in a layer, its values "
            f"by {self.order.values:.2e} (cache {self.form.cache_type}, {flash}, streams "
            f"{self.form.streams}, state version {self.form.version})"
        )


def verify(server: LlamaServer, model: PreTrainedModel, ordinary: Sequence[int]) -> Verified:
    """Let both read the same tokens, and compare what they cached.

    Args:
        server: of llama.cpp.
        model: the frozen model. Anything but float32 differs by its rounding.
        ordinary: the ids of the tokenizer's tokens that stand for text.

    Raises:
        PipelineError: where the server has another model, vocabulary or kind of cache.
    """
    known = server.vocabulary()
    if known is not None and known <= max(ordinary):
        raise PipelineError(
            f"{server.url}: its model knows {known} tokens, the frozen model's tokenizer "
            f"{max(ordinary) + 1}; give the GGUF file of the frozen model"
        )
    # Any tokens show the order; these are the same on every day.
    tokens = placeholder_ids("verification", _TOKENS, ordinary)
    saved = server.cached(tokens)
    order = key_order(_cached(model, tokens), saved.keys, saved.values)
    return Verified(saved.form, order)


@torch.inference_mode()
def _cached(model: PreTrainedModel, tokens: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    ids = torch.tensor([list(tokens)], device=model.device)
    cache = DynamicCache(config=model.config)
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    return [(array_of(layer.keys[0]), array_of(layer.values[0])) for layer in cache.layers]


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's numbers in float32, as states are compared and written."""
    return np.asarray(tensor.detach().float().cpu().numpy())
