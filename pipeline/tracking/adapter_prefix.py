"""The prefix of a PEFT adapter as the file that it is registered as."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.models.adapter import read_adapter


@contextmanager
def adapter_prefix(folder: Path) -> Iterator[Path]:
    """Yield the `prefix.safetensors` of an adapter's folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as aside:
        prefix = Path(aside) / "prefix.safetensors"
        read_adapter(folder).save(prefix)
        yield prefix
