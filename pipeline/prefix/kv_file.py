"""The safetensors file of a prefix: `keys.<i>`, `values.<i>`, `states.<name>`, `modules.<name>`."""

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.writing import write_whole

FORMAT = "kv-prefix-1"
WITH_STATES = "kv-prefix-2"
"""Another name, so that who knows of no states does not take the keys and values for all of it."""


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], about: dict[str, Any]
) -> None:
    """Write tensors and what is said of them, renamed into place."""
    has_states = any(name.startswith("states.") for name in tensors)
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # One entry: safetensors orders several by a hash that differs from run to run.
    metadata = {WITH_STATES if has_states else FORMAT: json.dumps(about, sort_keys=True)}
    write_whole(path, lambda aside: save_file(kept, aside, metadata=metadata))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_tensors` wrote.

    Raises PrefixError for a file that is missing, damaged, of another kind, or not finite.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            entry = next((metadata[name] for name in (FORMAT, WITH_STATES) if name in metadata), "")
            if not entry:
                raise PrefixError(f"{path}: is a safetensors file, but holds no prefix")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except FileNotFoundError as error:
        raise PrefixError(f"{path}: there is no such prefix file") from error
    except (SafetensorError, OSError) as error:
        raise PrefixError(
            f"{path}: is no complete safetensors file ({error}); compute or copy it again"
        ) from error
    refuse_non_finite(list(tensors.values()), str(path))
    return tensors, json.loads(entry)


def under(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    """Those whose names start so, by the rest of their names."""
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def refuse_non_finite(tensors: Sequence[torch.Tensor], where: str) -> None:
    """Raise PrefixError when any number is NaN or infinite, as after a diverged training."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise PrefixError(f"{where}: holds NaN or infinite numbers; train or compute it again")
