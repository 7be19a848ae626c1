"""llama.cpp's HTTP server, as far as a prefix needs it: its slots, and a state that it saves."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from pipeline.errors import PipelineError, first_line
from pipeline.serving.llama_cpp.saved_state import SavedState, read_state

_TIMEOUT = 600.0  # seconds: a slow machine reads a few tokens of a large model


@dataclass(frozen=True)
class LlamaServer:
    """A server that runs.

    Attributes:
        url: its address, without a path.
        state_folder: its `--slot-save-path`, a folder of this machine.
    """

    url: str
    state_folder: Path

    def slots(self) -> tuple[int, int]:
        """How many slots it has, and the positions of each."""
        props = self._asked("GET", "/props")
        try:
            return int(props["total_slots"]), int(props["default_generation_settings"]["n_ctx"])
        except (LookupError, TypeError, ValueError) as error:
            raise PipelineError(
                f"{self.url}: is no server of llama.cpp's, for its /props names no slots"
            ) from error

    def vocabulary(self) -> int | None:
        """How many tokens its model knows; None where it does not say."""
        listed = self._asked("GET", "/v1/models")
        try:
            return int(listed["data"][0]["meta"]["n_vocab"])
        except (LookupError, TypeError, ValueError):
            return None

    def cached(self, tokens: Sequence[int]) -> SavedState:
        """Its cache of these tokens, which it reads in its first slot and saves.

        Raises PipelineError for a server that is out of reach, saves no slots or saves them to
        another folder, and for a cache that no prefix is written for.
        """
        asked = {"prompt": list(tokens), "n_predict": 1, "id_slot": 0, "cache_prompt": False}
        self._asked("POST", "/completion", {**asked, "temperature": 0})
        name = f"probe-{uuid.uuid4().hex}.bin"
        saved = self._asked("POST", "/slots/0?action=save", {"filename": name})
        path = self.state_folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PipelineError(
                f"{self.state_folder}: llama.cpp's server saved a slot, but not here; name its "
                "--slot-save-path, on this machine"
            ) from error
        finally:
            path.unlink(missing_ok=True)
        if (found := saved.get("n_saved")) != len(tokens):
            raise PipelineError(
                f"{self.url}: a slot that read {len(tokens)} tokens was saved with {found}; let no "
                "other client use the server while prefixes are written for it"
            )
        return read_state(content)

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = httpx2.request(method, self.url + path, json=body, timeout=_TIMEOUT)
        except httpx2.HTTPError as error:
            raise PipelineError(
                f"{self.url}: llama.cpp's server is out of reach ({first_line(error)}); start it, "
                "or name another"
            ) from error
        if response.is_success:
            return response.json()
        told = reason_of(response)
        if "slots" in path and response.status_code in (404, 501):
            told += "; start it with --slot-save-path"
        raise PipelineError(f"{self.url}{path}: answered {response.status_code}: {told}")


def reason_of(response: httpx2.Response) -> str:
    """The server's own reason, in a line."""
    try:
        return str(response.json()["error"]["message"]).splitlines()[0]
    except (ValueError, LookupError, TypeError):
        return response.text.strip()[:200] or response.reason_phrase
