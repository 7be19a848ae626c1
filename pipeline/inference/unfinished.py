"""Lines of an output that were computed before a run was stopped, kept beside it to go on from."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.prefix import KVPrefix
from pipeline.storage.records import write_jsonl


class UnfinishedLines:
    """The file `<output>.unfinished`: what its lines were computed with, then the lines.

    Args:
        output: the file that they are to become.
        made_with: a digest; lines that were made with another are computed again.
    """

    def __init__(self, output: Path, made_with: str) -> None:
        self.path = output.with_name(f"{output.name}.unfinished")
        self._head = {"made_with": made_with}
        self.kept = list(self._read())

    @contextmanager
    def going_on(self) -> Iterator[IO[str]]:
        """The file, to add lines to; a line that was cut short is gone from it."""
        write_jsonl(self.path, (self._head, *self.kept))
        with self.path.open("a", encoding="utf-8") as file:
            yield file

    def remove(self) -> None:
        """Remove the file: its lines are where they belong."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            return
        # What follows the last end of a line was cut short.
        whole = [_object(line) for line in lines[:-1]]
        if not whole or whole[0] != self._head:
            return
        for line in whole[1:]:
            if line is None:
                return
            yield line


def as_line(value: Mapping[str, Any]) -> str:
    """A JSON object as a line."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def digest_of(kv: KVPrefix | None, *others: Any) -> str:
    """A digest of a prefix and of whatever else JSON can say."""
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    if kv is not None:
        digest.update(json.dumps(kv.metadata, sort_keys=True).encode())
        for tensor in (*kv.keys, *kv.values, *kv.states.values(), *kv.modules.values()):
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
