"""Names on the command line against those that params.yaml compares."""

from pipeline.config import Params
from pipeline.errors import PipelineError


def check_in_context(params: Params, length: int, initialization: str) -> None:
    """Raise PipelineError for a text in the context that the sweep does not list."""
    if initialization not in params.sweep.in_context or length not in params.sweep.lengths:
        raise PipelineError(
            f"'{initialization}' at {length} tokens is not in sweep.in_context and sweep.lengths "
            "of params.yaml"
        )


def check_self_study(params: Params, name: str) -> None:
    """Raise PipelineError for a self-study that params.yaml has not."""
    if name not in params.self_study:
        known = ", ".join(params.self_study) or "none"
        raise PipelineError(f"'{name}' is not under self_study of params.yaml; known: {known}")


def check_document(params: Params, name: str) -> None:
    """Raise PipelineError for a document that the library of params.yaml has not."""
    if name not in params.library.documents:
        known = ", ".join(params.library.documents) or "none"
        raise PipelineError(
            f"'{name}' is not under library.documents of params.yaml; known: {known}"
        )
