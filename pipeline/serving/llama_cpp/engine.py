"""llama.cpp as an engine of `python -m pipeline serve`."""

import sys

from pipeline.serving.asked import Asked
from pipeline.serving.llama_cpp.serving import serve_llama_cpp


def serve(asked: Asked) -> None:
    """Serve by the server that `serving.llama_cpp` describes. Raises as `serve_llama_cpp`."""
    serve_llama_cpp(asked, _tell)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)
