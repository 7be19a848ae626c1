"""`KVPrefix`: what stands before every input in each layer, apart from any model."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig

from pipeline.prefix import kv_choice
from pipeline.prefix.caches import filled
from pipeline.prefix.chosen import CHOSEN
from pipeline.prefix.demonstrated import cut
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv_checks import refuse_empty, refuse_unlike
from pipeline.prefix.kv_file import read_tensors, under, write_tensors
from pipeline.prefix.states import KINDS, has_tokens, in_order

_BEGINS_TEXT = "begins_text"

COMPOSED_OF = "composed_of"
"""The metadata entry that lists, as JSON, the prefixes that one was composed of."""


@dataclass(frozen=True)
class KVPrefix:
    """A prefix of p virtual tokens.

    Attributes:
        keys: a tensor `[num_kv_heads, p, head_dim]` for each attention layer, as they enter the
            attention (after rotary embedding at positions 0 to p-1, where a model has one). None
            (`()`) in a prefix of states alone.
        values: as `keys`; the head size may differ (multi-head latent attention).
        metadata: text entries kept in the file, for example the model's name.
        layers: indices of the model's layers that these tensors are for, ascending; None for all.
        parts: for each layer's tensors the part of the model they belong to ("encoder", "decoder"
            or "cross"), part after part; None for a model that is a decoder alone.
        modules: weights trained beside the prefix (a classifier's head), by their names in the
            model.
        states: what recurrent layers start from, without a batch dimension, by names such as
            `0.conv` and `0.recurrent` (`pipeline.prefix.states`).
        length: p where there are no keys that say it; None otherwise.

    Raises:
        PrefixError: when layers disagree about p, or keys and values have unlike shapes.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    parts: tuple[str, ...] | None = None
    modules: dict[str, torch.Tensor] = field(default_factory=dict)
    states: dict[str, torch.Tensor] = field(default_factory=dict)
    length: int | None = None

    def __post_init__(self) -> None:
        refuse_empty(self)
        object.__setattr__(self, "states", in_order(self.states))
        if not self.keys:
            object.__setattr__(self, "layers", ())
        elif self.length is not None:
            object.__setattr__(self, "length", None)
        refuse_unlike(self)

    def __len__(self) -> int:
        return int(self.keys[0].shape[1]) if self.keys else self.length or 0

    def __getitem__(self, tokens: slice) -> "KVPrefix":
        """The prefix of a slice of the virtual tokens, for example `kv[:8]`.

        Raises PrefixError for a part of a prefix with states: a state stands for all tokens of its
        text at once.
        """
        if not isinstance(tokens, slice):
            raise PrefixError("index a prefix with a slice of its virtual tokens, as in kv[:8]")
        if "state" in self.kinds and tokens.indices(len(self)) != (0, len(self), 1):
            raise PrefixError(
                "a prefix with states has no slices, since a state stands for its whole text; "
                "compute the shorter text's anew (kv_prefix_from_text with fewer "
                "num_virtual_tokens), or slice kv.of_kinds(('attention',))"
            )
        states = {n: s[tokens] if has_tokens(n) else s for n, s in self.states.items()}
        kv = self._with(lambda tensor: tensor[:, tokens], states)
        chosen = range(*tokens.indices(len(self)))
        if chosen.start != 0:
            kv.metadata.pop(_BEGINS_TEXT, None)
        if len(kv) != len(self):
            kv.metadata.pop(COMPOSED_OF, None)
            kv.metadata.pop(CHOSEN, None)
        cut(kv.metadata, chosen)
        return kv

    @property
    def begins_text(self) -> bool:
        """Whether its first virtual token is what begins a text (BOS).

        An input after it has none of its own; after any other prefix it keeps the one that the
        tokenizer gives it. Kept in the prefix's file, and through training.
        """
        return self.metadata.get(_BEGINS_TEXT) == "true"

    def beginning_text(self, begins_text: bool = True) -> "KVPrefix":
        """The same prefix, said to begin a text or not."""
        kv = replace(self, metadata=dict(self.metadata), modules=dict(self.modules))
        kv.metadata.pop(_BEGINS_TEXT, None)
        kv.metadata.update({_BEGINS_TEXT: "true"} if begins_text else {})
        return kv

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it is made of: "attention" (keys and values), "state", or both."""
        has = {"attention": bool(self.keys), "state": not all(map(has_tokens, self.states))}
        return tuple(kind for kind in KINDS if has[kind])

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each layer the shapes of keys and values, without their token dimension."""
        return [
            ((key.shape[0], key.shape[2]), (value.shape[0], value.shape[2]))
            for key, value in zip(self.keys, self.values, strict=True)
        ]

    def to(self, *args: Any, **kwargs: Any) -> "KVPrefix":
        """The prefix with every tensor moved or cast, as by `torch.Tensor.to`.

        States of integers are moved alone: they are ids, which another dtype could round.
        """

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            to = tensor.to(*args, **kwargs)
            return to if tensor.is_floating_point() else tensor.to(to.device)

        return self._every(moved)

    def detached(self) -> "KVPrefix":
        """The prefix in tensors of its own, apart from any graph."""
        return self._every(
            lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format)
        )

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values of one of the model's layers; None where it has no prefix."""
        layers = range(len(self.keys)) if self.layers is None else self.layers
        if index not in layers:
            return None
        at = layers.index(index)
        return self.keys[at], self.values[at]

    @property
    def places(self) -> list[tuple[str | None, int]]:
        """For each layer's keys and values their part (None for a decoder alone) and layer."""
        counts: Counter[str | None] = Counter()
        found: list[tuple[str | None, int]] = []
        for part in self.parts or [None] * len(self.keys):
            at = counts[part]
            found.append((part, at if self.layers is None else self.layers[at]))
            counts[part] += 1
        return found

    def of_layers(self, layers: tuple[int, ...]) -> "KVPrefix":
        """The prefix of some of its layers alone. Raises PrefixError for one that it lacks."""
        return self._chosen(*kv_choice.of_layers(self, layers))

    def of_parts(self, parts: tuple[str, ...]) -> "KVPrefix":
        """The prefix of some of its parts alone. Raises PrefixError for one that it lacks."""
        return self._chosen(*kv_choice.of_parts(self, parts))

    def of_kinds(self, kinds: tuple[str, ...]) -> "KVPrefix":
        """Its keys and values alone, or its states alone. Raises PrefixError for what it lacks."""
        return self._chosen(*kv_choice.of_kinds(self, kinds))

    def _chosen(
        self, at: list[int], layers: tuple[int, ...] | None, states: dict[str, torch.Tensor]
    ) -> "KVPrefix":
        return replace(
            self,
            keys=tuple(self.keys[i] for i in at),
            values=tuple(self.values[i] for i in at),
            metadata=dict(self.metadata),
            layers=layers,
            parts=None if self.parts is None else tuple(self.parts[i] for i in at),
            modules=dict(self.modules),
            states=states,
            length=None if at else len(self),
        )

    def _with(
        self, change: Callable[[torch.Tensor], torch.Tensor], states: dict[str, torch.Tensor]
    ) -> "KVPrefix":
        return replace(
            self,
            keys=tuple(change(key) for key in self.keys),
            values=tuple(change(value) for value in self.values),
            metadata=dict(self.metadata),
            modules=dict(self.modules),
            states=states,
        )

    def _every(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "KVPrefix":
        states = {name: change(state) for name, state in self.states.items()}
        return self._with(change, states)

    def to_cache(self, batch_size: int = 1, config: PreTrainedConfig | None = None) -> DynamicCache:
        """A transformers `DynamicCache` of this prefix, copied for each row.

        For plain transformers, without this package: pass it as `past_key_values` (`cache_params`
        to Mamba's kin), with an attention mask that begins with p ones where it has keys.

        Args:
            batch_size: rows.
            config: the model's configuration, without which a prefix with states or of a hybrid's
                attention layers has no cache.

        Raises:
            PrefixError: for a prefix of some layers only, which a plain cache cannot hold.
        """
        if self.parts is not None:
            raise PrefixError("a plain cache serves a decoder alone; this prefix has other parts")
        return filled(config, self.keys, self.values, self.layers, self.states, batch_size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file (`keys.<i>`, `values.<i>`, ...), renamed into place."""
        tensors = {f"keys.{i}": key for i, key in enumerate(self.keys)}
        tensors |= {f"values.{i}": value for i, value in enumerate(self.values)}
        tensors |= {f"states.{name}": state for name, state in self.states.items()}
        tensors |= {f"modules.{name}": module for name, module in self.modules.items()}
        about: dict[str, Any] = {"layers": self.layers, "metadata": self.metadata}
        about |= {} if self.parts is None else {"parts": self.parts}
        about |= {} if self.length is None else {"length": self.length}
        write_tensors(path, tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "KVPrefix":
        """Read what `save` wrote.

        Raises PrefixError for a file that is missing, damaged, of another kind, or not finite.
        """
        tensors, about = read_tensors(path)
        count = sum(name.startswith("keys.") for name in tensors)
        layers, parts = about["layers"], about.get("parts")
        return cls(
            tuple(tensors[f"keys.{i}"] for i in range(count)),
            tuple(tensors[f"values.{i}"] for i in range(count)),
            about["metadata"],
            None if layers is None else tuple(map(int, layers)),
            None if parts is None else tuple(map(str, parts)),
            under(tensors, "modules."),
            under(tensors, "states."),
            about.get("length"),
        )
