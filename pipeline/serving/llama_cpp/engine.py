"""llama.cpp as an engine of `python -m pipeline serve`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline.config import Params
from pipeline.serving.llama_cpp.launching import ServerOptions
from pipeline.serving.llama_cpp.serving import Door, serve_llama_cpp


class Asked(Protocol):
    """What an engine is given: as of `serve_llama_cpp` and `Door`."""

    @property
    def params(self) -> Params: ...

    @property
    def model_name(self) -> str: ...

    @property
    def prefixes(self) -> Mapping[str, str | Path]: ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def api_key(self) -> str | None: ...


def serve(asked: Asked) -> None:
    """Serve by a server of our own, of the GGUF file that `model.source: wheel` names.

    Raises PipelineError or PrefixError as `serve_llama_cpp`.
    """
    door = Door(asked.host, asked.port, asked.api_key)
    serve_llama_cpp(
        asked.params, asked.prefixes, None, ServerOptions(), _tell, door, asked.model_name
    )


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)
