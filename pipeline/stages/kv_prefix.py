"""Stage `kv_prefix`: what one initialisation starts from, once for all prefix lengths."""

from pipeline import paths
from pipeline.atomic import atomic_folder
from pipeline.config import Params
from pipeline.config.initializations import TEXT_BASED
from pipeline.errors import PipelineError
from pipeline.records import write_json, write_text


def run(params: Params, name: str) -> None:
    """Write data/kv_prefix/<name>: its definition; if text-based, its text and KV cache too."""
    if name not in params.initializations:
        known = ", ".join(params.initializations)
        raise PipelineError(f"'{name}' is not under initializations of params.yaml; known: {known}")
    definition = params.initializations[name]
    with atomic_folder(paths.KV_PREFIX / name) as folder:
        write_json(folder / "definition.json", definition.model_dump())
        if not isinstance(definition, TEXT_BASED):
            print(f"{name}: {definition.type} needs no text; it is drawn when a variant trains")
            return
        from pipeline.frozen_model import load_frozen_model, load_tokenizer
        from pipeline.initialization import corpus_text
        from pipeline.prefix import kv_prefix_from_text
        from pipeline.rendering import Renderer

        tokenizer = load_tokenizer(paths.MODEL)
        text = corpus_text(name, definition, Renderer(params.task, tokenizer))
        write_text(folder / "text.txt", text)
        kv = kv_prefix_from_text(
            load_frozen_model(paths.MODEL, params.kv_prefix),
            tokenizer,
            text,
            num_virtual_tokens=params.kv_prefix.max_length,
            use_chat_template=getattr(definition, "use_chat_template", False),
        )
        kv.save(folder / "prefix.safetensors")
        print(f"{name}: KV cache of the first {params.kv_prefix.max_length} tokens")
