"""Checkpoints of the Cartridges repository (`TrainableCache.save`): keys and values, by layers.

Eyuboglu et al. 2025 (arXiv 2506.06266) train a prefix of keys and values as they enter the
attention, after rotary embedding, and count an input's positions on from its length, as is done
here. A checkpoint is a dictionary of lists: `trainable_keys` and `trainable_values`, and before
them `frozen_keys` and `frozen_values` (`fixed_*` in older ones) of the first virtual tokens, each
tensor `[1, heads, tokens, head size]`.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.prefix import KVPrefix, PrefixError

_TRAINED = ("trainable_keys", "trainable_values")
# What their frozen tokens are called, the newest first.
_FROZEN = (("frozen_keys", "frozen_values"), ("fixed_keys", "fixed_values"))


def load_cartridge(path: Path) -> tuple[KVPrefix, int]:
    """The prefix of a checkpoint, in float32, and how many of its first tokens were kept frozen.

    Nothing in the file is run as code. Raises PrefixError for a file that is missing, damaged or
    something else.
    """
    checkpoint = _loaded(path)
    frozen = next((names for names in _FROZEN if names[0] in checkpoint), None)
    keys, values = (_layers(checkpoint, name, path) for name in _TRAINED)
    before: list[list[torch.Tensor]] = [[], []]
    if frozen is not None:
        before = [_layers(checkpoint, name, path) for name in frozen]
    count = before[0][0].shape[2] if before[0] else 0
    joined = []
    for name, first, rest in zip(_TRAINED, before, (keys, values), strict=True):
        if first and len(first) != len(rest):
            raise PrefixError(
                f"{path}: has frozen tokens of {len(first)} layers and {name} of {len(rest)}"
            )
        whole = (
            [torch.cat(pair, dim=2) for pair in zip(first, rest, strict=True)] if first else rest
        )
        joined.append(tuple(tensor[0].float() for tensor in whole))
    kv = KVPrefix(joined[0], joined[1])
    if not all(torch.isfinite(tensor).all() for tensor in (*kv.keys, *kv.values)):
        raise PrefixError(f"{path}: holds NaN or infinite numbers; train it again")
    return kv, count


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        # Lists of parameters are all that it holds besides tensors.
        with torch.serialization.safe_globals([nn.ParameterList]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise PrefixError(f"{path}: there is no such file") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise PrefixError(
            f"{path}: is no checkpoint of keys and values alone, as the Cartridges repository "
            "saves one (TrainableCache.save); name that file, or a folder with a PEFT adapter"
        ) from error
    if not isinstance(checkpoint, Mapping) or any(name not in checkpoint for name in _TRAINED):
        raise PrefixError(
            f"{path}: holds no {' and '.join(_TRAINED)}, as a checkpoint of the Cartridges "
            "repository does"
        )
    return checkpoint


def _layers(checkpoint: Mapping[str, Any], name: str, path: Path) -> list[torch.Tensor]:
    tensors = [*(checkpoint.get(name) or ())]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 4 or len(tensor) != 1:
            raise PrefixError(f"{path}: {name} are no tensors [1, heads, tokens, head size]")
    return [tensor.detach() for tensor in tensors]
