"""The card of a folder for vLLM: what is in it, how to start it, how to ask, what to know."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.adapters.export import base_model_of
from pipeline.adapters.model_card import (
    asked_first,
    card_template,
    first_prediction,
    unknown_ends,
)
from pipeline.adapters.prompt_code import prompt_code
from pipeline.config import Params
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix
from pipeline.serving.vllm.command import TEMPLATE, TESTED_WITH, as_shell, serve_arguments
from pipeline.serving.vllm.selected import model_config, served_dtype
from pipeline.workspace import paths

_TEMPLATE = Path(__file__).parent / "templates" / "vllm_card.md.jinja"


def vllm_card(
    params: Params,
    folder: Path,
    prefixes: Mapping[str, KVPrefix],
    base_model: str | None,
) -> str:
    """The card as Markdown, for a folder that holds all else already.

    Its code answers the first example of `report.split` with the first prefix, once vLLM runs.
    """
    name = next(iter(prefixes))
    tokenizer = load_tokenizer(paths.MODEL)
    named, revision = base_model_of(params, base_model)
    example = first_prediction(params, name)
    asked = asked_first(params, str(example.get("input", "...")))
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    body: dict[str, Any] = {"model": name, "max_tokens": params.evaluate.max_new_tokens}
    body["temperature"] = 0
    if ends := unknown_ends(params, tokenizer):
        body["stop_token_ids"] = ends
    has_chat = (folder / TEMPLATE).exists()
    dtype = served_dtype(params, model_config())
    arguments = serve_arguments(folder, named, [Path(named).name, *prefixes], dtype)
    if revision:
        arguments += ["--revision", revision]
    # The card speaks of the folder that it lies in.
    shown = [word.replace(str(folder / TEMPLATE), f"./{TEMPLATE}") for word in arguments[1:]]
    return card_template(_TEMPLATE).render(
        name=name,
        base_model=named,
        revision=revision,
        command=as_shell(".", ["vllm", "serve", *shown]),
        prefixes=[(each, len(kv)) for each, kv in prefixes.items()],
        tested_with=TESTED_WITH,
        has_chat=has_chat,
        is_chat_task=params.task.use_chat_template,
        chat_body=json.dumps({**body, "messages": turns}, ensure_ascii=False).replace("'", "'\\''"),
        frozen=Path(named).name,
        body=body,
        prompt_code=prompt_code(params.task, tokenizer, asked, prefixes[name].begins_text),
        answer=example.get("prediction"),
    )
