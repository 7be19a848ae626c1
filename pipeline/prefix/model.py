"""`PrefixModel`: a frozen transformers model with a trainable prefix."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pipeline.prefix.cache import PrefixCache
from pipeline.prefix.config import PrefixConfig
from pipeline.prefix.encoder import Shapes, build_encoder
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection import Injection
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed import is_packable, packed_logits
from pipeline.prefix.provenance import provenance, warn_of_another_model


class PrefixModel(nn.Module):
    """A frozen model in which every attention layer attends to a learned prefix.

    The frozen model's weights are shared, never copied and never trained. It sees the prefix while
    this object's `forward` or `generate` runs, and is itself the bare model at any other time: any
    number of prefix models can share it. The only parameters that take a gradient are the
    encoder's, in float32.

    Args:
        frozen_model: any decoder-only transformers model with a KV cache.
        config: how the prefix is parametrised.

    Raises:
        PrefixError: when the model has no KV cache to read its shapes from.
    """

    def __init__(self, frozen_model: PreTrainedModel, config: PrefixConfig) -> None:
        super().__init__()
        self.frozen_model = frozen_model.requires_grad_(False)
        self.prefix_config = config
        self.kv_shapes = kv_shapes(frozen_model)
        chosen = chosen_shapes(self.kv_shapes, config)
        _refuse_beyond_context(config.num_virtual_tokens, frozen_model)
        hidden_size = frozen_model.config.get_text_config().hidden_size
        self.encoder = build_encoder(config, chosen, hidden_size).to(frozen_model.device)
        self._injection = Injection(frozen_model, config, self.kv_shapes, self._current)

    @property
    def config(self) -> Any:
        """The frozen model's configuration, as transformers' tools expect it."""
        return self.frozen_model.config

    @property
    def device(self) -> torch.device:
        """Where the frozen model is."""
        return self.frozen_model.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The frozen model's own forward and output class, with the prefix before the input.

        `input_ids` and `attention_mask` are `[batch, tokens]` of the input alone, padded on either
        side; `position_ids`, where given, count from the input's first token.
        """
        with self._injection.active():
            return self.frozen_model(*args, **kwargs)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The frozen model's own `generate`, with the prefix before the input."""
        if kwargs.setdefault("use_cache", True):
            kwargs.setdefault("past_key_values", self.new_cache())
        with self._injection.active():
            return self.frozen_model.generate(*args, **kwargs)

    def new_cache(self) -> PrefixCache:
        """An empty cache after the prefix, to pass as `past_key_values` from call to call."""
        return self._injection.new_generation()

    def load_kv_prefix(self, kv: KVPrefix) -> None:
        """Start from a prefix, exactly, with or without `prefix_projection`.

        Raises PrefixError when its length or shapes are not this model's, and warns when it was
        made with another model of the same shapes.
        """
        warn_of_another_model(kv, self.frozen_model)
        self.encoder.load(kv.to(self.device))

    @torch.no_grad()
    def kv_prefix(self) -> KVPrefix:
        """The prefix of the current parameters, float32, apart from them."""
        kv: KVPrefix = self.encoder()
        kv.metadata.update(provenance(self.frozen_model))
        return kv.detached()

    @contextmanager
    def frozen(self) -> Iterator[PreTrainedModel]:
        """The frozen model without any trace of this prefix, its hooks removed meanwhile."""
        self._injection.detach()
        try:
            yield self.frozen_model
        finally:
            self._injection.attach()

    def detach(self) -> None:
        """Remove this prefix's hooks from the frozen model; the next call adds them again."""
        self._injection.detach()

    def gradient_checkpointing_enable(self) -> None:
        """Keep no activations inside layers; effective in training mode."""
        self.frozen_model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={
                "use_reentrant": False,
                "context_fn": self._injection.recompute_context,
            }
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the prefix as a PEFT adapter folder, which PEFT and `from_pretrained` read.

        A prefix-tuning adapter, or with `num_frozen_tokens` a cartridge, which knows of them.
        """
        from pipeline.prefix.peft_format import save_adapter

        frozen_tokens = self.prefix_config.num_frozen_tokens
        save_adapter(self.kv_prefix(), folder, self.config, frozen_tokens)

    @classmethod
    def from_pretrained(
        cls, frozen_model: PreTrainedModel, folder: str | os.PathLike[str]
    ) -> "PrefixModel":
        """A prefix model from an adapter folder that PEFT or this class wrote.

        Raises PrefixError when the folder holds none, or one for another model.
        """
        from pipeline.prefix.peft_format import load_adapter

        kv = load_adapter(folder, kv_shapes(frozen_model))
        # PEFT lets all be frozen; then the last stays trainable here.
        frozen_tokens = min(int(kv.metadata.get("num_frozen_tokens", 0)), len(kv) - 1)
        model = cls(
            frozen_model,
            PrefixConfig(num_virtual_tokens=len(kv), num_frozen_tokens=frozen_tokens),
        )
        model.load_kv_prefix(kv)
        return model

    @cached_property
    def packable(self) -> bool:
        """Whether `packed_logits` serves this architecture (see `pipeline.prefix.packed`)."""
        kv = self.kv_prefix()
        # What it is compared with holds its prefix in a plain cache, which has every layer.
        if kv.layers is not None:
            return False
        with self.frozen() as frozen_model:
            return is_packable(frozen_model, kv)

    def packed_logits(
        self, input_ids: torch.Tensor, lengths: list[int], keep: torch.Tensor
    ) -> torch.Tensor:
        """Logits `[n, vocabulary]` at the positions `keep` of examples packed without padding.

        The fast path of training and of measuring a loss: `input_ids` is `[tokens]`, examples one
        after another, `lengths` their tokens. The numbers are those of `forward`.
        """
        with self._injection.packing():
            return packed_logits(self.frozen_model, input_ids, lengths, self._current(), keep)

    def _current(self) -> KVPrefix:
        kv: KVPrefix = self.encoder()
        drop = self.prefix_config.prefix_dropout
        if not (self.training and drop):
            return kv
        return KVPrefix(
            tuple(F.dropout(key, drop) for key in kv.keys),
            tuple(F.dropout(value, drop) for value in kv.values),
            layers=kv.layers,
        )


@torch.no_grad()
def kv_shapes(model: PreTrainedModel) -> Shapes:
    """For each layer `(num_kv_heads, head_dim)` of keys and values, as they enter the cache.

    Read from a forward pass over one token, since configurations name them in many ways. Raises
    PrefixError when the model fills no KV cache.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    training = model.training
    model.eval()
    try:
        model(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device),
            past_key_values=cache,
            use_cache=True,
        )
    finally:
        model.train(training)
    shapes: Shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.ndim != 4:
            break
        shapes.append(((keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])))
    if not shapes or len(shapes) != len(cache.layers):
        raise PrefixError(
            f"{type(model).__name__} does not keep keys and values of every layer in a KV cache, "
            "so it has no place for a prefix"
        )
    return shapes


def chosen_shapes(shapes: Shapes, config: PrefixConfig) -> Shapes:
    """The shapes of the layers that get a prefix. Raises PrefixError for one there is not."""
    if config.layers is None:
        return shapes
    if config.layers[-1] >= len(shapes):
        raise PrefixError(
            f"layers names {config.layers[-1]}, but the model's layers are 0 to {len(shapes) - 1}"
        )
    return [shapes[index] for index in config.layers]


def _refuse_beyond_context(num_virtual_tokens: int, model: PreTrainedModel) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and num_virtual_tokens >= context:
        raise PrefixError(
            f"num_virtual_tokens is {num_virtual_tokens}, which leaves no room in the model's "
            f"context of {context} positions; use a shorter prefix"
        )
