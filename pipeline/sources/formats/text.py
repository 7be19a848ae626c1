"""A data file's bytes and lines, compressed or not."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
"""The suffixes of compressed files; what a file is, is told by its first bytes."""

_BYTE_ORDER_MARK = "\ufeff"


def _by_arrow(name: str) -> Callable[[Path], Any]:
    return lambda path: io.BufferedReader(pa.input_stream(path, compression=name))


def _only_member(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        archive.close()
        raise ValueError(f"it is a zip archive of {len(names)} files; unpack it")
    return archive.open(names[0])


_BY_FIRST_BYTES: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _by_arrow("zstd"),
    b"\x04\x22\x4d\x18": _by_arrow("lz4"),
    b"PK\x03\x04": _only_member,
    **{b"BZh%d1AY&SY" % level: bz2.open for level in range(1, 10)},
}


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file, whatever it is compressed with and named."""
    with path.open("rb") as file:
        first = file.read(10)
    for mark, open_compressed in _BY_FIRST_BYTES.items():
        if first.startswith(mark):
            with open_compressed(path) as stream:
                yield stream
            return
    with path.open("rb") as file:
        yield file


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """The lines of UTF-8 text with their ends, without a byte-order mark.

    Raises ValueError naming the line that is not UTF-8. A line ends at a line feed alone: text may
    hold U+2028, and a quoted cell a carriage return.
    """
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} is not UTF-8 text (byte 0x{line[error.start]:02X}); save it as "
                "UTF-8"
            ) from error
        yield text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text
