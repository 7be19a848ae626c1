"""State files of prefixes, for a server whose cache was verified."""

from dataclasses import replace
from pathlib import Path

from pipeline.prefix import KVPrefix
from pipeline.serving.llama_cpp.state_format import state_bytes
from pipeline.serving.llama_cpp.verification import Verified, array_of
from pipeline.storage.atomic import atomic_file


def write_state(
    kv: KVPrefix,
    path: Path,
    placeholders: tuple[int, ...],
    verified: Verified,
    version: int | None = None,
) -> int:
    """Write a prefix's state file, whole or not at all, and say how many bytes it has.

    Args:
        kv: a prefix that `refuse_prefix` let pass.
        path: the file.
        placeholders: its p token ids.
        verified: what the server's cache is like.
        version: LLAMA_STATE_SEQ_VERSION of another llama.cpp than the one that was verified.

    Raises:
        PipelineError: for numbers beyond the cache's type.
    """
    form = verified.form if version is None else replace(verified.form, version=version)
    pairs = zip(map(array_of, kv.keys), map(array_of, kv.values), strict=True)
    layers = [(verified.order.apply(i, keys), values) for i, (keys, values) in enumerate(pairs)]
    content = state_bytes(layers, placeholders, form)
    with atomic_file(path) as aside:
        aside.write_bytes(content)
    return len(content)
