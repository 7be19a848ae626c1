"""What a self-study has come to, a file a finished chunk, taken up by the next start."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.self_study.asking import Asked
from pipeline.storage.records import read_json, write_json


@dataclass(frozen=True)
class KeptChunks:
    """The chunks that are finished, in a folder of this very self-study."""

    folder: Path

    def load(self, index: int) -> Asked | None:
        """What was kept of a chunk; None for nothing, or what is damaged."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            kept = read_json(path)
            return Asked(list(kept["rows"]), dict(kept["dropped"]))
        except (PipelineError, LookupError, TypeError, ValueError):
            return None

    def save(self, index: int, asked: Asked) -> None:
        """Keep a finished chunk. Raises OSError when the disk refuses."""
        write_json(self._path(index), asdict(asked))

    def load_summary(self, index: int, tokens: int) -> str | None:
        """What was kept of a chunk's summary of so many tokens; None as of `load`."""
        path = self._summary_path(index, tokens)
        if not path.exists():
            return None
        try:
            text = read_json(path)["summary"]
        except (PipelineError, LookupError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def save_summary(self, index: int, tokens: int, text: str) -> None:
        """Keep a chunk's summary. Raises OSError when the disk refuses."""
        write_json(self._summary_path(index, tokens), {"summary": text})

    def _summary_path(self, index: int, tokens: int) -> Path:
        # A summary of another length leaves what was asked about the chunk as it is.
        return self.folder / f"summary-{tokens}-{index}.json"

    def _path(self, index: int) -> Path:
        return self.folder / f"chunk-{index}.json"
