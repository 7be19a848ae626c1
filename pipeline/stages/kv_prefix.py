"""Stage `kv_prefix`: what one initialisation starts from, once for all prefix lengths."""

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models.definition import write_definition
from pipeline.models.first_tokens import KEPT, TOKENS
from pipeline.models.for_initialization import ForInitialization
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_text
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/kv_prefix/<name>: its definition, and the text and KV cache that it starts from.

    One that starts from neither text nor file has its definition alone; of a text whose states
    each length computes anew the tokens stand in place of the cache.
    """
    if name not in params.initializations:
        known = ", ".join(params.initializations)
        raise PipelineError(f"'{name}' is not under initializations of params.yaml; known: {known}")
    definition = params.initializations[name]
    with atomic_folder(paths.KV_PREFIX / name) as folder:
        write_definition(folder, definition)
        cached = definition.cached(ForInitialization(params, name))
        if cached is None:
            print(f"{name}: {definition.type} needs no text; it is drawn when a variant trains")
            return
        if cached.text is not None:
            write_text(folder / "text.txt", cached.text)
        if cached.tokens is not None:
            begins = {} if cached.kv is not None else {"begins_text": cached.begins_text}
            write_json(folder / TOKENS, {"tokens": list(cached.tokens), **begins})
        if cached.kv is not None:
            cached.kv.save(folder / KEPT)
        print(f"{name}: {cached.summary}")
