"""The CPU's own attention kernel: the C++ of `kernel/`, compiled for this machine on first use.

Compiling takes a few seconds, once for a machine and a version of the source; the library lies in
the user's cache folder. Where there is no C++ compiler, `available` is false and the attention runs
on torch's operators instead, more slowly.
"""

import ctypes
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

Tensor = torch.Tensor

_SOURCES = Path(__file__).parent
_COMPILERS = ("g++", "clang++", "c++")
# Contracting a product and a sum into one instruction is the only liberty taken.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")
ROOM = 16
"""What a cache's room is a multiple of: the floats of the widest vector."""

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def available(*states: Tensor) -> bool:
    """Whether the kernel takes these states `[heads, tokens, dim]`, all of one dtype and dim.

    Those of a prefix are float32 whatever the others are.
    """
    first = states[0]
    same = all(t.dtype == first.dtype and t.shape[-1] == first.shape[-1] for t in states)
    return same and serves(first.device, first.dtype, first.shape[-1])


def serves(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether there is a kernel for such a device, dtype and size of an attention head."""
    if device.type != "cpu" or dtype not in _NAMES:
        return False
    library = _library()
    return library is not None and dim % library.lanes() == 0


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    lengths: list[int],
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of packed examples to themselves, causally, and to the prefix.

    Arguments as of `merged_attention`. Returns `[num_heads, tokens, dim]` in the query's dtype, and
    float32 log-sum-exps of the scaled scores `[num_heads, tokens]`.
    """
    heads, tokens, dim = query.shape
    out = query.new_empty(tokens, heads, dim)
    lse = query.new_empty(heads, tokens, dtype=torch.float32)
    states = [query, key, value, prefix_key, prefix_value]
    sizes = _sizes(query, key.shape[0], prefix_key, len(lengths))
    _run("forward", sizes, [_starts(lengths)], scaling, states, _pointer(out), _pointer(lse))
    return out.transpose(0, 1), lse


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    out: Tensor,
    lse: Tensor,
    lengths: list[int],
    scaling: float,
    for_input: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, value (None unless `for_input`), and of the prefix, float32."""
    inputs = [
        torch.empty_like(t.transpose(0, 1), memory_format=torch.contiguous_format)
        for t in ((query, key, value) if for_input else ())
    ]
    prefix = [torch.empty(prefix_key.shape, dtype=torch.float32) for _ in range(2)]
    states = [query, key, value, prefix_key, prefix_value, grad, out]
    sizes = _sizes(query, key.shape[0], prefix_key, len(lengths))
    outputs = _pointer(lse), _pointers(inputs or [None] * 3), _pointers(prefix)
    _run("backward", sizes, [_starts(lengths)], scaling, states, *outputs)
    turned: list[Any] = [t.transpose(0, 1) for t in inputs] or [None] * 3
    return turned[0], turned[1], turned[2], prefix[0], prefix[1]


def attention_to_cache(
    query: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: list[int],
    counts: list[int],
    scaling: float,
) -> Tensor:
    """Attention of one new token a row to the prefix and to the row's own cached tokens.

    Args:
        query: `[num_heads, rows, dim]`.
        prefix_key, prefix_value: `[num_kv_heads, p, dim]`, float32.
        keys: `[slots, num_kv_heads, dim, room]`, contiguous; `room` a multiple of `ROOM`.
        values: `[slots, num_kv_heads, room, dim]`, contiguous.
        slots: where each row's tokens are cached.
        counts: how many they are, the new one included.
        scaling: what scores are multiplied by before the softmax.

    Returns:
        `[num_heads, rows, dim]` in the query's dtype.
    """
    heads, rows, dim = query.shape
    out = query.new_empty(rows, heads, dim)
    states = [query, prefix_key, prefix_value, keys, values]
    sizes = _sizes(query, keys.shape[1], prefix_key, keys.shape[-1])
    _run("decode", sizes, [slots, counts], scaling, states, _pointer(out))
    return out.transpose(0, 1)


def _run(
    name: str,
    sizes: list[int],
    indices: list[list[int]],
    scaling: float,
    states: list[Tensor],
    *outputs: Any,
) -> None:
    """Call the library's function for the dtype of `states`, of which the first is the query."""
    library = _library()
    assert library is not None, "asked of `available` before"
    dtype = _NAMES[states[0].dtype]
    # Held until the call has returned, copies too.
    states = [t if t.stride(-1) == 1 else t.contiguous() for t in states]
    getattr(library, f"{name}_{dtype}")(
        _integers(sizes),
        *map(_integers, indices),
        ctypes.c_float(scaling),
        _pointers(states),
        _integers([stride for t in states for stride in t.stride()[:2]]),
        *outputs,
    )


def _sizes(query: Tensor, kv_heads: int, prefix_key: Tensor, last: int) -> list[int]:
    """The sizes that every function of the library takes, and a last one of its own."""
    assert prefix_key.dtype == torch.float32, "the prefix is trained in float32"
    heads, tokens, dim = query.shape
    return [tokens, heads, kv_heads, dim, prefix_key.shape[1], last]


def _starts(lengths: list[int]) -> list[int]:
    """Where each example starts, and where the last one ends."""
    return [0, *itertools.accumulate(lengths)]


def _integers(values: list[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@cache
def _library() -> Any:
    """The compiled kernel; None where it cannot be compiled."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiled(compiler: str) -> Path:
    """The library for this source, compiler and processor, compiled unless it is there."""
    # What the compiler predefines names its version and every instruction set of `native`.
    asked = [compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    machine = subprocess.run(asked, capture_output=True, check=True).stdout
    sources = [path.read_bytes() for path in sorted(_SOURCES.glob("*.[hc]*"))]
    digest = hashlib.sha256(b"\0".join([*sources, machine, repr(_FLAGS).encode()]))
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "prefix-tuning" / f"attention-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            aside = Path(folder, path.name)
            command = [
                compiler,
                *_FLAGS,
                "-shared",
                "-o",
                str(aside),
                str(_SOURCES / "attention.cpp"),
            ]
            subprocess.run(command, capture_output=True, check=True)
            aside.replace(path)
    return path
