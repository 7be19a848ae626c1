"""`PrefixModel`: a frozen transformers model with a trainable prefix."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel

from pipeline.prefix.architecture.parts import (
    Place,
    chosen_places,
    is_decoder_only,
    of_places,
    parts_of,
    places_of,
    shapes_of,
)
from pipeline.prefix.architecture.shapes import adapter_shapes, chosen_shapes, kv_shapes
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.files.peft_format import load_adapter, save_adapter
from pipeline.prefix.files.provenance import provenance, warn_of_another_model
from pipeline.prefix.injection.causal import Injection
from pipeline.prefix.injection.parts import PartInjection
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.logits import is_packable, packed_logits
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import build_encoder
from pipeline.prefix.parameters.heads import TrainedModules


class PrefixModel(nn.Module):
    """A frozen model in which every attention layer attends to a learned prefix.

    The frozen model's weights are shared, never copied and never trained. It sees the prefix while
    this object's `forward` or `generate` runs, and is itself the bare model at any other time: any
    number of prefix models can share it. The only parameters that take a gradient are the
    encoder's, in float32.

    Args:
        frozen_model: a decoder-only transformers model with a KV cache, an encoder-decoder, or an
            encoder; the last two need an attention that goes through `AttentionInterface`.
        config: how the prefix is parametrised.

    Raises:
        PrefixError: when the model has no place for a prefix, or not for one that `config` names.
    """

    def __init__(self, frozen_model: PreTrainedModel, config: PrefixConfig) -> None:
        super().__init__()
        self.frozen_model = frozen_model.requires_grad_(False)
        self.prefix_config = config
        self.parts = parts_of(frozen_model, config.parts)
        self._places: list[Place] | None = None
        if is_decoder_only(frozen_model):
            self.kv_shapes = kv_shapes(frozen_model)
            chosen = chosen_shapes(self.kv_shapes, config)
        else:
            self._places = places_of(frozen_model, self.parts)
            self.kv_shapes = shapes_of(self._places)
            places = chosen_places(self._places, config.layers)
            chosen = shapes_of(places)
        _refuse_beyond_context(config.num_virtual_tokens, frozen_model)
        hidden_size = frozen_model.config.get_text_config().hidden_size
        self.encoder = build_encoder(config, chosen, hidden_size).to(frozen_model.device)
        self.heads = TrainedModules(frozen_model, config.modules_to_save)
        self._injection: Injection | PartInjection
        if self._places is None:
            self._injection = Injection(frozen_model, config, self.kv_shapes, self._current)
        else:
            self.encoder.parts = tuple(place.part for place in places)
            self._injection = PartInjection(
                frozen_model, self._places, config.layers, self._current
            )

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
        with self._injection.active(), self.heads.answering():
            return self.frozen_model(*args, **kwargs)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The frozen model's own `generate`, with the prefix before the input."""
        if kwargs.setdefault("use_cache", True) and self._places is None:
            kwargs.setdefault("past_key_values", self.new_cache())
        with self._injection.active(), self.heads.answering():
            return self.frozen_model.generate(*args, **kwargs)

    def new_cache(self) -> Cache:
        """An empty cache after the prefix, to pass as `past_key_values` from call to call."""
        return self._injection.new_generation()

    def load_kv_prefix(self, kv: KVPrefix) -> None:
        """Start from a prefix, exactly, with or without `prefix_projection`.

        Raises PrefixError when its length or shapes are not this model's, and warns when it was
        made with another model of the same shapes.
        """
        warn_of_another_model(kv, self.frozen_model)
        kv = kv.to(self.device)
        if kv.modules:
            self.heads.load(kv.modules)
        if self._places is not None:
            kv = of_places(kv, self._places)
        self.encoder.load(kv)

    @torch.no_grad()
    def kv_prefix(self) -> KVPrefix:
        """The prefix of the current parameters, float32, apart from them."""
        kv: KVPrefix = self.encoder()
        kv.metadata.update(provenance(self.frozen_model))
        kv.modules.update(self.heads.tensors())
        return kv.detached()

    @contextmanager
    def frozen(self) -> Iterator[PreTrainedModel]:
        """The frozen model without any trace of this prefix, its hooks removed meanwhile."""
        self.detach()
        try:
            yield self.frozen_model
        finally:
            self._injection.attach()
            self.heads.attach()

    def detach(self) -> None:
        """Remove this prefix's hooks from the frozen model; the next call adds them again."""
        self._injection.detach()
        self.heads.detach()

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
        config = self.prefix_config
        save_adapter(
            self.kv_prefix(),
            folder,
            self.config,
            config.num_frozen_tokens,
            config.modules_to_save,
            self.frozen_model,
        )

    @classmethod
    def from_pretrained(
        cls, frozen_model: PreTrainedModel, folder: str | os.PathLike[str]
    ) -> "PrefixModel":
        """A prefix model from an adapter folder that PEFT or this class wrote.

        Raises PrefixError when the folder holds none, or one for another model.
        """
        kv = load_adapter(folder, adapter_shapes(frozen_model))
        saved = kv.metadata.get("modules_to_save", "")
        # PEFT lets all be frozen; then the last stays trainable here.
        frozen_tokens = min(int(kv.metadata.get("num_frozen_tokens", 0)), len(kv) - 1)
        model = cls(
            frozen_model,
            PrefixConfig(
                num_virtual_tokens=len(kv),
                num_frozen_tokens=frozen_tokens,
                parts=tuple(dict.fromkeys(kv.parts or ())) or None,
                modules_to_save=tuple(filter(None, saved.split(","))),
            ),
        )
        model.load_kv_prefix(kv)
        return model

    @cached_property
    def packable(self) -> bool:
        """Whether `packed_logits` serves this architecture (see `pipeline.prefix.packed`)."""
        if self._places is not None or self.heads.names:
            return False
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
            parts=kv.parts,
        )


def _refuse_beyond_context(num_virtual_tokens: int, model: PreTrainedModel) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and num_virtual_tokens >= context:
        raise PrefixError(
            f"num_virtual_tokens is {num_virtual_tokens}, which leaves no room in the model's "
            f"context of {context} positions; use a shorter prefix"
        )
