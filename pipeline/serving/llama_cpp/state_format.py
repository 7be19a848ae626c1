"""The byte layout of llama.cpp's sequence-state file, written from keys and values.

Source: `llama_context::state_seq_save_file` (src/llama-context.cpp) and
`llama_kv_cache::state_write`, `state_write_meta` and `state_write_data` (src/llama-kv-cache.cpp).
Numbers are little-endian, without padding between them:

    u32 magic "ggsq", u32 version, u32 n, n times i32   tokens that the state stands for
    u32 streams                                         1 with --kv-unified, else the slots
    of each stream:
      u32 cells                                         0 ends the stream here
      of each cell: i32 position, u32 1, i32 sequence   the sequence is read and dropped
      u32 transposed                                    values; 1 without flash attention
      u32 layers
      u32, u32 rotation of keys and of values           from version 4 on; 0 in float caches
      keys of each layer:   i32 type, u64 bytes of a cell, cells times [num_kv_heads, k_dim]
      values of each layer: i32 type, u64 bytes of a cell, cells times [num_kv_heads, v_dim]
      or, transposed:       i32 type, u32 bytes of a number, u32 num_kv_heads * v_dim,
                            [num_kv_heads, v_dim] times the cells

The engine puts cells into the stream of the slot that restores them, wherever they stand here: they
are written in the first.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import PipelineError

MAGIC = 0x67677371
VERSIONS = (3, 4)
"""Values of LLAMA_STATE_SEQ_VERSION that are known here."""

CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30}
"""Types of cached numbers, by llama.cpp's names, as `ggml_type` numbers them."""

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
}
"""How numpy holds them; it has no bfloat16, whose bits are held as an integer's."""

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Keys `[num_kv_heads, p, k_dim]` and values `[num_kv_heads, p, v_dim]` of each layer, float32."""


@dataclass(frozen=True)
class StateFormat:
    """What an engine has to agree on with a state file, or refuses it.

    Attributes:
        cache_type: of keys and values, `--cache-type-k` and `--cache-type-v`: f32, f16 or bf16.
        transposed: whether values are, as they are without flash attention.
        streams: parts of the cache, one for each slot; 1 with a unified cache.
        version: LLAMA_STATE_SEQ_VERSION.
    """

    cache_type: str = "f16"
    transposed: bool = False
    streams: int = 1
    version: int = 4


def state_bytes(layers: Layers, tokens: Sequence[int], form: StateFormat) -> bytes:
    """The file of one sequence, whose cells at positions 0 to p-1 hold these keys and values.

    Args:
        layers: keys in the order of numbers that the engine keeps (`key_order`).
        tokens: p token ids, which a prompt has to begin with to go on from the state.
        form: what the engine's cache is like.

    Raises:
        PipelineError: for numbers beyond the cache's type.
    """
    cells = len(tokens)
    out = [struct.pack("<III", MAGIC, form.version, cells), np.asarray(tokens, "<i4").tobytes()]
    out.append(struct.pack("<II", form.streams, cells))
    out += [struct.pack("<iIi", position, 1, 0) for position in range(cells)]
    out.append(struct.pack("<II", form.transposed, len(layers)))
    if form.version >= 4:
        out.append(struct.pack("<II", 0, 0))
    number = CACHE_TYPES[form.cache_type]
    for keys, _ in layers:
        rows = _rows(keys, form.cache_type)
        out += [struct.pack("<iQ", number, rows[0].nbytes), rows.tobytes()]
    for _, values in layers:
        rows = _rows(values, form.cache_type)
        if form.transposed:
            head = struct.pack("<iII", number, rows.itemsize, rows.shape[1])
            out += [head, rows.T.tobytes()]
        else:
            out += [struct.pack("<iQ", number, rows[0].nbytes), rows.tobytes()]
    out.append(struct.pack("<I", 0) * (form.streams - 1))
    return b"".join(out)


def stored(numbers: np.ndarray, cache_type: str) -> np.ndarray:
    """Float32 numbers as a cache of this type holds them, rounded to nearest even.

    Raises PipelineError for one that is beyond it.
    """
    if cache_type == "bf16":
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
        return (rounded >> 16).astype(DTYPES["bf16"])
    with np.errstate(over="ignore"):
        made = np.asarray(numbers, np.float32).astype(DTYPES[cache_type])
    if not np.isfinite(made).all():
        largest = float(np.abs(numbers).max())
        raise PipelineError(
            f"the prefix holds a number of {largest:.3g}, beyond a cache of {cache_type}; set "
            "serving.llama_cpp.cache_type to bf16 or f32"
        )
    return made


def numbers_of(held: np.ndarray, cache_type: str) -> np.ndarray:
    """The float32 numbers that a cache of this type holds."""
    if cache_type == "bf16":
        return (held.astype(np.uint32) << 16).view(np.float32)
    return held.astype(np.float32)


def _rows(tensor: np.ndarray, cache_type: str) -> np.ndarray:
    """`[heads, p, d]` as a row a cell, the heads one after another."""
    rows = tensor.transpose(1, 0, 2).reshape(tensor.shape[1], -1)
    return np.ascontiguousarray(stored(rows, cache_type))
