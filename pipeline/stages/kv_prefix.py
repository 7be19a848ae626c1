"""Stage `kv_prefix`: what one initialisation starts from, once for all prefix lengths."""

from pipeline.config import Params
from pipeline.data.task_type import TaskType
from pipeline.errors import PipelineError
from pipeline.initialization.cached import prefill, prefix_of_file
from pipeline.initialization.corpus import corpus_of
from pipeline.models.for_task import load_for_task
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_text
from pipeline.workspace import paths


def run(params: Params, name: str) -> None:
    """Write data/kv_prefix/<name>: its definition, and the text and KV cache that it starts from.

    One that starts from neither text nor file has its definition alone.
    """
    if name not in params.initializations:
        known = ", ".join(params.initializations)
        raise PipelineError(f"'{name}' is not under initializations of params.yaml; known: {known}")
    definition = params.initializations[name]
    with atomic_folder(paths.KV_PREFIX / name) as folder:
        write_json(folder / "definition.json", definition.model_dump())

        if (kv := prefix_of_file(definition, params)) is not None:
            kv.save(folder / "prefix.safetensors")
            print(f"{name}: {len(kv)} virtual tokens of {definition.path}")
            return
        corpus = corpus_of(name, definition, params)
        if corpus is None:
            print(f"{name}: {definition.type} needs no text; it is drawn when a variant trains")
            return

        # A prefix does not depend on a classifier's head: any two labels will do.
        task = TaskType(params.task.type, ("0", "1"))
        model, _ = load_for_task(paths.MODEL, params.kv_prefix, task)
        write_text(folder / "text.txt", corpus.text)
        prefill(model, corpus).save(folder / "prefix.safetensors")
        print(f"{name}: KV cache of {len(corpus.tokens)} tokens")
