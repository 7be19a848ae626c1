"""`KVPrefix`: the keys and values of every attention layer, apart from any model."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.writing import write_whole

FORMAT = "kv-prefix-1"
_MODULES = "modules."
_BEGINS_TEXT = "begins_text"


@dataclass(frozen=True)
class KVPrefix:
    """A prefix of p virtual tokens.

    Attributes:
        keys: a tensor `[num_kv_heads, p, head_dim]` for each attention layer, as they enter the
            attention (after rotary embedding at positions 0 to p-1, where a model has one).
        values: as `keys`; the head size may differ (multi-head latent attention).
        metadata: text entries kept in the file, for example the model's name.
        layers: indices of the model's layers that these tensors are for, ascending; None for all.
        parts: for each layer's tensors the part of the model they belong to ("encoder", "decoder"
            or "cross"), part after part; None for a model that is a decoder alone.
        modules: weights trained beside the prefix (a classifier's head), by their names in the
            model.

    Raises:
        PrefixError: when layers disagree about p, or keys and values have unlike shapes.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    parts: tuple[str, ...] | None = None
    modules: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.values):
            raise PrefixError(
                f"a prefix needs as many keys as values, at least one of each; found "
                f"{len(self.keys)} and {len(self.values)}"
            )
        if self.parts is not None and len(self.parts) != len(self.keys):
            raise PrefixError(f"{len(self.keys)} keys cannot be of {len(self.parts)} parts")
        stacks = 1 if self.parts is None else len(set(self.parts))
        if self.layers is not None and len(self.layers) * stacks != len(self.keys):
            raise PrefixError(f"{len(self.keys)} keys cannot be for {len(self.layers)} layers")
        for layer, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            if key.ndim != 3 or value.ndim != 3 or key.shape[:2] != value.shape[:2]:
                raise PrefixError(
                    f"layer {layer}: keys {tuple(key.shape)} and values {tuple(value.shape)} must "
                    "both be [num_kv_heads, p, head_dim]"
                )
            if key.shape[1] != len(self) or len(self) < 1:
                raise PrefixError(
                    f"layer {layer} has {key.shape[1]} virtual tokens where layer 0 has {len(self)}"
                )

    def __len__(self) -> int:
        return int(self.keys[0].shape[1])

    def __getitem__(self, tokens: slice) -> "KVPrefix":
        """The prefix of a slice of the virtual tokens, for example `kv[:8]`."""
        if not isinstance(tokens, slice):
            raise PrefixError("index a prefix with a slice of its virtual tokens, as in kv[:8]")
        kv = self._with(lambda tensor: tensor[:, tokens])
        if tokens.indices(len(self))[0] != 0:
            kv.metadata.pop(_BEGINS_TEXT, None)
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
        kv = self._with(lambda tensor: tensor)
        kv.metadata.pop(_BEGINS_TEXT, None)
        kv.metadata.update({_BEGINS_TEXT: "true"} if begins_text else {})
        return kv

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each layer the shapes of keys and values, without their token dimension."""
        return [
            ((key.shape[0], key.shape[2]), (value.shape[0], value.shape[2]))
            for key, value in zip(self.keys, self.values, strict=True)
        ]

    def to(self, *args: Any, **kwargs: Any) -> "KVPrefix":
        """The prefix with every tensor moved or cast, as by `torch.Tensor.to`."""
        return self._with(lambda tensor: tensor.to(*args, **kwargs))

    def detached(self) -> "KVPrefix":
        """The prefix in tensors of its own, apart from any graph."""
        return self._with(
            lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format)
        )

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values of one of the model's layers; None where it has no prefix."""
        if self.layers is None:
            return self.keys[index], self.values[index]
        if index not in self.layers:
            return None
        at = self.layers.index(index)
        return self.keys[at], self.values[at]

    @property
    def places(self) -> list[tuple[str | None, int]]:
        """For each layer's tensors their part (None for a decoder alone) and layer in it."""
        counts: Counter[str | None] = Counter()
        found: list[tuple[str | None, int]] = []
        for part in self.parts or [None] * len(self.keys):
            at = counts[part]
            found.append((part, at if self.layers is None else self.layers[at]))
            counts[part] += 1
        return found

    def of_layers(self, layers: tuple[int, ...]) -> "KVPrefix":
        """The prefix of some of its layers alone. Raises PrefixError for one that it lacks."""
        known = sorted({layer for _, layer in self.places})
        if absent := [index for index in layers if index not in known]:
            raise PrefixError(
                f"layers: the prefix has no layer {absent[0]}, only {', '.join(map(str, known))}"
            )
        return self._chosen(
            [i for i, (_, layer) in enumerate(self.places) if layer in layers], layers
        )

    def of_parts(self, parts: tuple[str, ...]) -> "KVPrefix":
        """The prefix of some of its parts alone. Raises PrefixError for one that it lacks."""
        known = list(dict.fromkeys(self.parts or ()))
        if absent := [part for part in parts if part not in known]:
            shown = ", ".join(known) or "a decoder alone"
            raise PrefixError(f"parts: the prefix has none for '{absent[0]}', only for {shown}")
        return self._chosen(
            [i for i, (part, _) in enumerate(self.places) if part in parts], self.layers
        )

    def _chosen(self, at: list[int], layers: tuple[int, ...] | None) -> "KVPrefix":
        return KVPrefix(
            tuple(self.keys[i] for i in at),
            tuple(self.values[i] for i in at),
            dict(self.metadata),
            layers,
            None if self.parts is None else tuple(self.parts[i] for i in at),
            dict(self.modules),
        )

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "KVPrefix":
        return KVPrefix(
            tuple(change(key) for key in self.keys),
            tuple(change(value) for value in self.values),
            dict(self.metadata),
            self.layers,
            self.parts,
            dict(self.modules),
        )

    def to_cache(self, batch_size: int = 1) -> Any:
        """A transformers `DynamicCache` of this prefix, copied for each row.

        For plain transformers, without this package: pass it as `past_key_values`, with an
        attention mask that begins with p ones. Raises PrefixError for a prefix of some layers
        only, which a plain cache cannot hold.
        """
        if self.layers is not None:
            raise PrefixError("a plain cache has an entry for every layer; this prefix has not")
        if self.parts is not None:
            raise PrefixError("a plain cache serves a decoder alone; this prefix has other parts")
        return DynamicCache(
            [
                (
                    key.expand(batch_size, -1, -1, -1).clone(),
                    value.expand(batch_size, -1, -1, -1).clone(),
                )
                for key, value in zip(self.keys, self.values, strict=True)
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file (`keys.<i>`, `values.<i>`), renamed into place."""
        tensors = {f"keys.{i}": key.detach().contiguous().cpu() for i, key in enumerate(self.keys)}
        tensors |= {f"values.{i}": v.detach().contiguous().cpu() for i, v in enumerate(self.values)}
        tensors |= {f"{_MODULES}{name}": m.contiguous().cpu() for name, m in self.modules.items()}
        # One entry: safetensors orders several by a hash that differs from run to run.
        about: dict[str, Any] = {"layers": self.layers, "metadata": self.metadata}
        if self.parts is not None:
            about["parts"] = self.parts
        entry = json.dumps(about, sort_keys=True)
        write_whole(path, lambda aside: save_file(tensors, aside, metadata={FORMAT: entry}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "KVPrefix":
        """Read what `save` wrote.

        Raises PrefixError for a file that is missing, damaged, of another kind, or not finite.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if FORMAT not in metadata:
                    raise PrefixError(f"{path}: is a safetensors file, but holds no prefix")
                layers = sum(1 for name in file.keys() if name.startswith("keys."))  # noqa: SIM118
                keys = tuple(file.get_tensor(f"keys.{i}") for i in range(layers))
                values = tuple(file.get_tensor(f"values.{i}") for i in range(layers))
                modules = {
                    name.removeprefix(_MODULES): file.get_tensor(name)
                    for name in sorted(file.keys())
                    if name.startswith(_MODULES)
                }
        except FileNotFoundError as error:
            raise PrefixError(f"{path}: there is no such prefix file") from error
        except (SafetensorError, OSError) as error:
            raise PrefixError(
                f"{path}: is no complete safetensors file ({error}); compute or copy it again"
            ) from error
        refuse_non_finite([*keys, *values, *modules.values()], str(path))
        entry = json.loads(metadata[FORMAT])
        listed, parts = entry["layers"], entry.get("parts")
        return cls(
            keys,
            values,
            entry["metadata"],
            None if listed is None else tuple(map(int, listed)),
            None if parts is None else tuple(map(str, parts)),
            modules,
        )


def refuse_non_finite(tensors: Sequence[torch.Tensor], where: str) -> None:
    """Raise PrefixError when any number is NaN or infinite, as after a diverged training."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise PrefixError(f"{where}: holds NaN or infinite numbers; train or compute it again")
