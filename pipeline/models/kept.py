"""The frozen model that this process keeps, so that the next stage in it loads none again.

One, since two may not fit: another folder, precision or device takes its place. It is handed on
only as it was loaded. What a stage left on it (a hook, compiled layers, a weight written to) has
the next one load a model of its own, so that a stage gives the same bytes in a process that has
run others as in a new one.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Loaded = tuple[PreTrainedModel, tuple[str, ...]]
"""A model, and the names of its modules that are to be trained."""


@dataclass(frozen=True)
class _Kept:
    key: tuple[Any, ...]
    loaded: Loaded
    state: list[Any]
    """Of the model as it was loaded; the objects themselves, so that no other can take their
    place."""


_kept: _Kept | None = None


def kept(folder: Path, how: tuple[Any, ...], load: Callable[[], Loaded]) -> Loaded:
    """What `load` gives of a folder, or the very same of before: for what leaves it as it is.

    `how` is all else that it depends on. A model for which random numbers are drawn is loaded each
    time: after one that is kept there would be others.
    """
    global _kept
    key = (_identity(folder), how)
    if _kept is not None and _kept.key == key and _is_same(_kept.state, _state(_kept.loaded[0])):
        return _kept.loaded
    let_go()
    before = torch.get_rng_state()
    loaded = load()
    if torch.equal(before, torch.get_rng_state()):
        _kept = _Kept(key, loaded, _state(loaded[0]))
    return loaded


def let_go() -> None:
    """Keep no model any longer, before one takes its room that is somebody's own."""
    global _kept
    if _kept is not None:
        _kept = None
        # A worker keeps the collector from what outlives a stage, as this model did.
        gc.unfreeze()
        # Compiled code depends on the sizes that it met: the next training's is made anew.
        torch.compiler.reset()


def _identity(folder: Path) -> tuple[Any, ...]:
    """What tells a folder whose files were written since from the one that was loaded."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    files = tuple(
        (str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
        for path, stat in found
    )
    return (folder, folder.resolve(), files)


def _state(model: PreTrainedModel) -> list[Any]:
    """All that a stage could change of a model, short of code."""
    config = (model.config.to_json_string(use_diff=False), model.config._attn_implementation)
    generation = getattr(model, "generation_config", None)
    tensors = chain(model.parameters(), model.buffers())
    return [
        config,
        None if generation is None else generation.to_json_string(use_diff=False),
        [(t, _version(t), t.data_ptr(), t.requires_grad, t.grad) for t in tensors],
        [list(_attributes(module)) for module in model.modules()],
    ]


def _version(tensor: torch.Tensor) -> int | None:
    """How often it was written to; None where torch does not count.

    accelerate leaves such tensors where weights waited for a call in inference mode.
    """
    return None if tensor.is_inference() else tensor._version


def _attributes(module: nn.Module) -> Iterator[Any]:
    """A module's attributes, and what is in those that torch keeps hooks and parts in."""
    for name, value in vars(module).items():
        yield name
        yield value.copy() if isinstance(value, dict | list | set) else value


def _is_same(known: Any, now: Any) -> bool:
    """Whether two states are of the same objects; texts and numbers by their value."""
    if type(known) is not type(now):
        return False
    if isinstance(known, dict):
        return list(known) == list(now) and all(map(_is_same, known.values(), now.values()))
    if isinstance(known, list | tuple):
        return len(known) == len(now) and all(map(_is_same, known, now))
    if isinstance(known, set):
        return bool(known == now)
    return known is now or (isinstance(known, str | int | float) and known == now)
