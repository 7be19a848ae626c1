"""`KVPrefix`: the keys and values of every attention layer, apart from any model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.prefix.errors import PrefixError

FORMAT = "kv-prefix-1"


@dataclass(frozen=True)
class KVPrefix:
    """A prefix of p virtual tokens.

    Attributes:
        keys: a tensor `[num_kv_heads, p, head_dim]` for each attention layer, as they enter the
            attention (after rotary embedding at positions 0 to p-1, where a model has one).
        values: as `keys`; the head size may differ (multi-head latent attention).
        metadata: text entries kept in the file, for example the model's name.

    Raises:
        PrefixError: when layers disagree about p, or keys and values have unlike shapes.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.values):
            raise PrefixError(
                f"a prefix needs as many keys as values, at least one of each; found "
                f"{len(self.keys)} and {len(self.values)}"
            )
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
        return KVPrefix(
            tuple(key[:, tokens] for key in self.keys),
            tuple(value[:, tokens] for value in self.values),
            dict(self.metadata),
        )

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each layer the shapes of keys and values, without their token dimension."""
        return [
            ((key.shape[0], key.shape[2]), (value.shape[0], value.shape[2]))
            for key, value in zip(self.keys, self.values, strict=True)
        ]

    def to(self, *args: Any, **kwargs: Any) -> "KVPrefix":
        """The prefix with every tensor moved or cast, as by `torch.Tensor.to`."""
        return KVPrefix(
            tuple(key.to(*args, **kwargs) for key in self.keys),
            tuple(value.to(*args, **kwargs) for value in self.values),
            dict(self.metadata),
        )

    def to_cache(self, batch_size: int = 1) -> Any:
        """A transformers `DynamicCache` of this prefix, copied for each row.

        For plain transformers, without this package: pass it as `past_key_values`, with an
        attention mask that begins with p ones.
        """
        from transformers import DynamicCache

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
        """Write a safetensors file (`keys.<layer>`, `values.<layer>`), renamed into place."""
        tensors = {f"keys.{i}": key.detach().contiguous().cpu() for i, key in enumerate(self.keys)}
        tensors |= {f"values.{i}": v.detach().contiguous().cpu() for i, v in enumerate(self.values)}
        path = Path(path)
        aside = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        # One entry: safetensors orders several by a hash that differs from run to run.
        entry = json.dumps(self.metadata, sort_keys=True)
        try:
            save_file(tensors, aside, metadata={FORMAT: entry})
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

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
        except FileNotFoundError as error:
            raise PrefixError(f"{path}: there is no such prefix file") from error
        except (SafetensorError, OSError) as error:
            raise PrefixError(
                f"{path}: is no complete safetensors file ({error}); compute or copy it again"
            ) from error
        refuse_non_finite(keys + values, str(path))
        return cls(keys, values, json.loads(metadata[FORMAT]))


def refuse_non_finite(tensors: Sequence[torch.Tensor], where: str) -> None:
    """Raise PrefixError when any number is NaN or infinite, as after a diverged training."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise PrefixError(f"{where}: holds NaN or infinite numbers; train or compute it again")
