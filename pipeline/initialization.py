"""From an initialisation of params.yaml to the prefix that a variant starts from."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.config import Params
from pipeline.config.initializations import TEXT_BASED, Demonstrations, Initialization
from pipeline.errors import PipelineError
from pipeline.records import read_jsonl
from pipeline.rendering import Renderer
from pipeline.variants import Variant

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix, PrefixModel


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


def start_prefix(params: Params, variant: Variant, model: "PrefixModel") -> "KVPrefix":
    """The prefix that a variant's training starts from, of the variant's length.

    Raises PipelineError when the initialisation's stage has not written what it should have.
    """
    import torch

    from pipeline.prefix import KVPrefix, random_kv_prefix

    definition = params.initializations[variant.initialization]
    if isinstance(definition, TEXT_BASED):
        path = paths.KV_PREFIX / variant.initialization / "prefix.safetensors"
        return KVPrefix.load(path)[: variant.length]
    generator = torch.Generator().manual_seed(variant.seed)
    return random_kv_prefix(model.encoder.shapes, variant.length, definition.scale, generator)
