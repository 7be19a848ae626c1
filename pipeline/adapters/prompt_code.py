"""Python for a model card: the tokens of an input, exactly as this project makes them."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.prefix.starts.beginning import text_tokens, tokens_before


def prompt_code(
    task: TaskParams, tokenizer: PreTrainedTokenizerBase, asked: str | Turns, begins_text: bool
) -> str:
    """Code that makes `batch` of what the task makes of a text, or of turns.

    `begins_text`: the prefix begins the text, so that the input has no BOS.
    """
    renderer = Renderer(task, tokenizer)
    if not task.use_chat_template:
        assert isinstance(asked, str), "turns need the chat template"
        return _of_text(tokenizer, asked, begins_text)
    turns = renderer.conversation(asked)
    dropped = 1 if begins_text and renderer.chat.begins_text else 0
    if renderer.chat.is_dated:
        # The library knows no other day than today, and the prefix was trained with another.
        text = renderer.chat.render(turns, add_generation_prompt=True)
        lines = [
            f"text = {as_python(text)}",
            'batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")',
        ]
    else:
        extra = "".join(f", {k}={v!r}" for k, v in sorted(task.chat_template_kwargs.items()))
        lines = [
            "messages = [",
            *(f"    {as_python(turn)}," for turn in renderer.chat.messages(turns)),
            "]",
            "batch = tokenizer.apply_chat_template(",
            "    messages, add_generation_prompt=True, return_dict=True, "
            f'return_tensors="pt"{extra}',
            ")",
        ]
    return "\n".join([*lines, *_cut(f"{dropped}:" if dropped else "")])


def as_python(value: Any) -> str:
    """What a turn of a conversation holds, as Python source; texts with double quotes."""
    if isinstance(value, Mapping):
        items = (f"{as_python(key)}: {as_python(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_python, value))}]"
    # A text of JSON is one of Python; its true, false and null are not.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _of_text(tokenizer: PreTrainedTokenizerBase, text: str, begins_text: bool) -> str:
    begin = [] if begins_text else tokens_before(tokenizer)
    after = len(tokenizer.encode("a")) - len(text_tokens(tokenizer, "a"))
    plain = "" if begin else "add_special_tokens=False, "
    lines = [
        f"text = {as_python(text)}",
        f'batch = tokenizer(text, {plain}return_tensors="pt")',
    ]
    return "\n".join([*lines, *_cut(f":-{after}" if begin and after else "")])


def _cut(kept: str) -> list[str]:
    """The line that keeps some of the tokens of `batch`."""
    if not kept:
        return []
    return [f"batch = {{name: tensor[:, {kept}] for name, tensor in batch.items()}}"]
