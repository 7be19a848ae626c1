"""Reading the state file that an engine saved: what its cache is like, and what is in it."""

import struct
from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp.state_format import (
    CACHE_TYPES,
    DTYPES,
    MAGIC,
    VERSIONS,
    StateFormat,
    numbers_of,
)

_NAMES = {number: name for name, number in CACHE_TYPES.items()}


@dataclass(frozen=True)
class SavedState:
    """One sequence of an engine.

    Attributes:
        form: what the engine's cache is like.
        keys: of each layer float32 `[cells, num_kv_heads * k_dim]`, by position.
        values: of each layer float32 `[cells, num_kv_heads * v_dim]`, by position.
    """

    form: StateFormat
    keys: list[np.ndarray]
    values: list[np.ndarray]


def read_state(content: bytes) -> SavedState:
    """What `state_bytes` writes, as an engine writes it.

    Raises PipelineError for what no prefix can be written for: a version that is not known, a cache
    of quantized numbers, and caches of other parts than one of keys and values (sliding windows,
    recurrent layers, positions of images, latent attention).
    """
    try:
        return _Reader(content).state()
    except struct.error as error:
        raise _of_other_parts("ends within them") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def state(self) -> SavedState:
        magic, version, tokens = self._take("<III")
        if magic != MAGIC or version not in VERSIONS:
            raise PipelineError(
                f"llama.cpp saves states of version {version}, and versions "
                f"{' and '.join(map(str, VERSIONS))} are known here; take a llama.cpp that has one "
                "of them"
            )
        self._bytes(4 * tokens)
        (streams,) = self._take("<I")
        cells = 0
        for _ in range(streams):
            (count,) = self._take("<I")
            if count and cells:
                raise _of_other_parts("has the sequence in two streams")
            if count:
                cells = count
                held = self._stream(count, version)
        if not cells:
            raise _of_other_parts("holds no cell")
        if self._at != len(self._content):
            raise _of_other_parts(f"has {len(self._content) - self._at} bytes more")
        cache_type, transposed, keys, values = held
        form = StateFormat(cache_type, transposed, streams, version)
        return SavedState(form, keys, values)

    def _stream(
        self, cells: int, version: int
    ) -> tuple[str, bool, list[np.ndarray], list[np.ndarray]]:
        order = np.zeros(cells, dtype=int)
        for cell in range(cells):
            position, sequences, _ = self._take("<iIi")
            if sequences != 1 or not 0 <= position < cells:
                raise _of_other_parts("has cells with more than a position")
            order[position] = cell
        transposed, layers = self._take("<II")
        if transposed > 1 or not layers:
            raise _of_other_parts("has cells with more than a position")
        if version >= 4:
            # Of a cache in floating point both are 0; the type, below, tells the reason.
            self._take("<II")
        keys = [self._rows(cells) for _ in range(layers)]
        read = self._columns if transposed else self._rows
        values = [read(cells) for _ in range(layers)]
        names = {name for name, _ in (*keys, *values)}
        if len(names) > 1:
            unlike = " and ".join(sorted(names))
            raise PipelineError(
                f"llama.cpp's cache holds keys and values of unlike types, {unlike}; start it with "
                "the same --cache-type-k and --cache-type-v"
            )
        by_position = [[rows[order] for _, rows in each] for each in (keys, values)]
        return names.pop(), bool(transposed), by_position[0], by_position[1]

    def _rows(self, cells: int) -> tuple[str, np.ndarray]:
        number, size = self._take("<iQ")
        name = _name(number)
        held = np.frombuffer(self._bytes(cells * size), DTYPES[name])
        return name, numbers_of(held.reshape(cells, -1), name)

    def _columns(self, cells: int) -> tuple[str, np.ndarray]:
        number, size, width = self._take("<iII")
        name = _name(number)
        if size != DTYPES[name].itemsize:
            raise _of_other_parts("has numbers of another size")
        held = np.frombuffer(self._bytes(cells * size * width), DTYPES[name])
        return name, numbers_of(np.ascontiguousarray(held.reshape(width, cells).T), name)

    def _take(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))

    def _bytes(self, count: int) -> bytes:
        found = self._content[self._at : self._at + count]
        if len(found) != count:
            raise struct.error("the file ends")
        self._at += count
        return found


def _name(number: int) -> str:
    if number not in _NAMES:
        raise PipelineError(
            f"llama.cpp's cache holds numbers of ggml's type {number}, which are quantized, and "
            "rotated before it: no prefix is written for them; start it with --cache-type-k and "
            f"--cache-type-v of {', '.join(CACHE_TYPES)}, the same for both"
        )
    return _NAMES[number]


def _of_other_parts(what: str) -> PipelineError:
    return PipelineError(
        f"llama.cpp's state of this model {what}: besides keys and values of every token it keeps "
        "something else (sliding windows, recurrent layers, image positions or latent attention), "
        "for which no prefix is written; serve the model by transformers"
    )
