"""The engines that serve prefixes: a row each. A row's module has `serve(asked)`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.serving.asked import Asked

ENGINES = {
    "transformers": "pipeline.serving.transformers_engine",
    "vllm": "pipeline.serving.vllm.engine",
    "llama.cpp": "pipeline.serving.llama_cpp.engine",
}
"""The module of each engine, which is imported when it is asked for."""


def serve_with(engine: str, asked: "Asked") -> None:
    """Serve until a signal ends it. Raises PipelineError for what the engine cannot serve."""
    import_module(ENGINES[engine]).serve(asked)
