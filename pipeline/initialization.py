"""From an initialisation of params.yaml to the prefix that a variant starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.initializations import (
    TEXT_BASED,
    CorpusText,
    Demonstrations,
    Initialization,
)
from pipeline.errors import PipelineError
from pipeline.records import read_jsonl
from pipeline.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def corpus_text(name: str, definition: Initialization, renderer: Renderer) -> str:
    """The text of a text-based initialisation.

    Raises PipelineError when its file is missing, empty or not UTF-8.
    """
    path = Path(definition.path)
    if isinstance(definition, Demonstrations):
        import random

        rows = read_jsonl(path)
        # A seeded order, so that neighbouring rows of one topic do not fill a short prefix.
        random.Random(definition.seed).shuffle(rows)
        return renderer.demonstrations(rows[: definition.max_examples], definition.template)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PipelineError(
            f"initializations.{name}.path: there is no file '{path}'; name an existing text file"
        ) from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"initializations.{name}.path: '{path}' is not UTF-8 text (byte {error.start})"
        ) from error
    if not text.strip():
        raise PipelineError(f"initializations.{name}.path: '{path}' is empty")
    return text
