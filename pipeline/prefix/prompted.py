"""Prompt tuning as a prefix: trained embeddings, of which the frozen model makes keys and values.

Embeddings before an input reach it through attention alone, and by causality they never see it. So
a soft prompt (Lester et al. 2021, arXiv 2104.08691) is, in every layer, the keys and values that
the frozen model computes of it, and whatever serves a prefix serves a prompt: packed rows, decoding
from one copy of it, measuring.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.cached import prefix_of
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import evaluating, is_decoder_only, takes
from pipeline.prefix.architecture.shapes import cache_argument_of, cache_shapes, chosen_shapes
from pipeline.prefix.caches import chooses, empty_cache, recurs
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import PrefixEncoder


class PromptEncoder(PrefixEncoder):
    """Yields the keys and values that a frozen model computes of embeddings, with gradients.

    They are computed anew at every call, at positions 0 to p-1, as those of p tokens of text.

    Args:
        frozen_model: a decoder all of whose layers attend.
        embeddings: where the prompt starts, `[p, hidden]`; its copy in float32 is what is trained.

    Raises:
        PrefixError: for another model, and for embeddings of another size.
    """

    keeps_prefix_alone = False

    def __init__(self, frozen_model: PreTrainedModel, embeddings: torch.Tensor) -> None:
        name = type(frozen_model).__name__
        if not is_decoder_only(frozen_model):
            raise PrefixError(f"{name} is no decoder alone, before which a prompt could stand")
        if recurs(frozen_model.config) or chooses(frozen_model.config):
            raise PrefixError(
                f"{name} has layers that do more than attend, of which a prompt would leave more "
                "than keys and values; train a prefix instead"
            )
        hidden = frozen_model.get_input_embeddings().weight.shape[-1]
        if embeddings.ndim != 2 or embeddings.shape[1] != hidden:
            raise PrefixError(
                f"the prompt has the shape {list(embeddings.shape)}, and {name} reads embeddings "
                f"[p, {hidden}]; it was made for another model"
            )
        config = PrefixConfig(num_virtual_tokens=len(embeddings))
        super().__init__(config, chosen_shapes(cache_shapes(frozen_model), config).kv, {})
        self.embedding = nn.Parameter(embeddings.detach().float().clone())
        # In a plain list: registered, the frozen model would be a part of this module.
        self._frozen = [frozen_model]

    def forward(self) -> KVPrefix:
        """The prefix of the current embeddings, with gradients."""
        (model,) = self._frozen
        cache = empty_cache(model.config)
        extra: dict[str, Any] = {cache_argument_of(model): cache}
        extra |= {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
        embeddings = self.embedding[None].to(input_device(model), model.dtype)
        # A handful of tokens: nothing is compiled for them.
        with evaluating(model), torch.compiler.set_stance("force_eager"):
            model(inputs_embeds=embeddings, use_cache=True, **extra)
        name = f"the cache of {type(model).__name__}"
        return prefix_of(cache, self.config.num_virtual_tokens, is_ours=True, name=name)

    def load(self, kv: KVPrefix) -> None:
        """Raise PrefixError: keys and values are made of embeddings, and not the reverse."""
        raise PrefixError("a prompt starts from embeddings, never from keys and values")


def prompted_model(frozen_model: PreTrainedModel, embeddings: torch.Tensor) -> PrefixModel:
    """A frozen model behind a prompt that is trained, started from embeddings `[p, hidden]`.

    Raises PrefixError as `PromptEncoder` does, and for more tokens than the model's context.
    """
    encoder = PromptEncoder(frozen_model, embeddings)
    return PrefixModel(frozen_model, encoder.config, encoder)
