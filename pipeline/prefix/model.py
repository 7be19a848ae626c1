"""`PrefixModel`: a frozen transformers model with a trainable prefix."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.fitting import config_holding
from pipeline.prefix.architecture.parts import of_places
from pipeline.prefix.architecture.shapes import adapter_shapes
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.chosen import CHOSEN
from pipeline.prefix.composition import composed
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.files.peft_format import load_adapter, save_adapter
from pipeline.prefix.files.provenance import provenance, warn_of_another_model
from pipeline.prefix.injected_model import InjectedModel
from pipeline.prefix.kv import COMPOSED_OF, KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import PrefixEncoder

_KEPT = (COMPOSED_OF, CHOSEN)
"""What metadata say of a start that is true of what is trained from it too."""


class PrefixModel(InjectedModel):
    """A transformers model in which every attention layer attends to a learned prefix.

    The frozen model's weights are shared, never copied and never trained. It sees the prefix while
    this object's `forward` or `generate` runs, and is itself the bare model at any other time: any
    number of prefix models can share it. Their calls from several threads take turns at it, a
    whole generation as one. The only parameters that take a gradient are the encoder's, in float32.

    The frozen model is in evaluation mode throughout, also while its prefix is trained: its own
    dropout is off. Training mode is the prefix's (`prefix_dropout`) and that of the modules trained
    beside it, which keep the dropout inside of them.

    Without a configuration the prefix is empty: calls reach the model as they are, its weights
    take gradients or not as they did before, and its modes are its own.

    Args:
        frozen_model: a decoder-only transformers model with a KV cache, an encoder-decoder, or an
            encoder; the last two need an attention that goes through `AttentionInterface`.
        config: how the prefix is parametrised; None for a model without one.
        encoder: what yields a decoder's prefix, in place of one that is built for `config`.

    Raises:
        PrefixError: when the model has no place for a prefix, or not for one that `config` names.
    """

    def __init__(
        self,
        frozen_model: PreTrainedModel,
        config: PrefixConfig | None = None,
        encoder: PrefixEncoder | None = None,
    ) -> None:
        super().__init__(frozen_model, config, encoder)
        self.begins_text = False
        """Whether the prefix begins a text, so that inputs have no BOS (`KVPrefix.begins_text`)."""
        self._told: dict[str, str] = {}

    def load_kv_prefix(self, kv: KVPrefix) -> None:
        """Start from a prefix, exactly, with or without `prefix_projection`.

        Raises PrefixError when its length or shapes are not this model's, and warns when it was
        made with another model of the same shapes.
        """
        warn_of_another_model(kv, self.frozen_model)
        begins_text, kv = kv.begins_text, kv.to(self.device)
        with turn_of(self.frozen_model):
            if kv.modules:
                self.heads.load(kv.modules)
            if self._places is not None:
                kv = of_places(kv, self._places)
            self.encoder.load(kv)
            self.begins_text = begins_text
            self._told = {key: kv.metadata[key] for key in _KEPT if key in kv.metadata}

    def chosen_of(self, kv: KVPrefix) -> KVPrefix:
        """What of a prefix this model would start from: of its layers, parts and kinds.

        Raises PrefixError for one that lacks some of it.
        """
        if self._places is not None:
            kv = of_places(kv, self._places)
        return self.encoder.chosen_of(kv)

    @torch.no_grad()
    def kv_prefix(self) -> KVPrefix | None:
        """The prefix of the current parameters, float32, apart from them; None without one."""
        with turn_of(self.frozen_model):
            kv: KVPrefix | None = self.encoder()
            if kv is None:
                return None
            kv.metadata.update(provenance(self.frozen_model))
            kv.metadata.update(self._told)
            kv.modules.update(self.heads.tensors())
            return kv.beginning_text(self.begins_text).detached()

    def save_pretrained(
        self, folder: str | os.PathLike[str], is_main_process: bool = True, **_: Any
    ) -> None:
        """Write the prefix as a PEFT adapter folder, which PEFT and `from_pretrained` read.

        A prefix-tuning adapter, or with `num_frozen_tokens` a cartridge, which knows of them.
        Other keywords of transformers' `save_pretrained` have no meaning for it; only the main
        process of several writes.
        """
        if not is_main_process:
            return
        kv, config = self.kv_prefix(), self.prefix_config
        if kv is None or config is None:
            raise PrefixError("the model has no prefix to save; make it with a PrefixConfig")
        save_adapter(
            kv,
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
                kinds=kv.kinds,
                modules_to_save=tuple(filter(None, saved.split(","))),
            ),
        )
        model.load_kv_prefix(kv)
        return model

    @classmethod
    def compose(
        cls,
        frozen_model: PreTrainedModel,
        prefixes: Sequence[KVPrefix],
        names: Sequence[str] | None = None,
        prefix_always_visible: bool = False,
    ) -> "PrefixModel":
        """A prefix model of several prefixes together, one after another in their order.

        The keys of each but the first are moved on to the positions after those before it, so that
        an input after all of them is one after as many tokens of text; no prefix has seen another.
        `kv_prefix().metadata["composed_of"]` lists them, by `names` where given.

        Raises PrefixError for prefixes that cannot stand together, or a model whose keys cannot be
        moved (`pipeline.prefix.composition`).
        """
        with turn_of(frozen_model):
            kv = composed(frozen_model, prefixes, names)
        model = cls(frozen_model, config_holding(frozen_model, kv, prefix_always_visible))
        model.load_kv_prefix(kv)
        return model
