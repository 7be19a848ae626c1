"""The model's chat template with placeholders in front: a client names a prefix by a variable."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.data.chat import pinned_to

VARIABLE = "prefix"
"""The variable of the template, and so the key in a request's `chat_template_kwargs`."""


def with_placeholders(
    template: str,
    texts: Mapping[str, str],
    *,
    date: str,
    system: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    without_bos: Collection[str] = (),
    bos: str = "",
) -> str:
    """A template that begins with the placeholders of the prefix in the variable `prefix`.

    With a prefix it is rendered as in training: the turns `system` stand first where a conversation
    has no system turn, `variables` where a request sets no others, and after the prefixes
    `without_bos`, which begin a text themselves, no `bos` is written. Without one it is the model's
    own, but for the `date` that it prints. A name that is none of `texts` is refused.
    """
    # Without "+" Jinja would swallow a line break that the template begins with.
    named = f"{{%- if {VARIABLE} is defined and {VARIABLE} -%}}"
    lines = [
        f"{{%- set prefix_texts = {as_jinja(texts)} -%}}",
        named,
        f"{{%- if {VARIABLE} not in prefix_texts -%}}",
        f'{{{{- raise_exception("there is no prefix " ~ {VARIABLE} ~ "; name one of " ~ '
        'prefix_texts.keys() | join(", ")) -}}',
        "{%- endif -%}",
        f"{{{{- prefix_texts[{VARIABLE}] -}}}}",
        *_defaults(system, variables or {}),
        "{%- endif +%}",
    ]
    body = pinned_to(date, template)
    if without_bos and bos:
        kept = (
            f"{VARIABLE} is defined and {VARIABLE} in {as_jinja(sorted(without_bos))} "
            f"and said.startswith({as_jinja(bos)})"
        )
        body = (
            f"{{% set said +%}}{body}{{%+ endset %}}"
            f"{{{{- said[{len(bos)}:] if {kept} else said -}}}}"
        )
    return "\n".join(lines) + body


def plain_template(bos: str) -> str:
    """The template of tasks without one: a chat is one message of a user, read as it stands.

    `bos` is what the tokenizer puts before a text of its own.
    """
    reason = (
        "a chat is one message of a user, whose content is an input (task.use_chat_template is "
        "false); send that alone"
    )
    return (
        '{%- if messages | length != 1 or messages[0].role != "user" -%}'
        f"{{{{- raise_exception({as_jinja(reason)}) -}}}}{{%- endif -%}}"
        f"{{{{- {as_jinja(bos)} -}}}}{{{{- messages[0].content -}}}}"
    )


def as_jinja(value: Any) -> str:
    """A value of JSON as a literal of Jinja: texts, numbers, lists, mappings, null."""
    if isinstance(value, Mapping):
        items = (f"{as_jinja(key)}: {as_jinja(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_jinja, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)


def _defaults(system: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{{%- if {name} is not defined -%}}{{%- set {name} = {as_jinja(value)} -%}}{{%- endif -%}}"
        for name, value in variables.items()
    ]
    if system:
        lines += [
            '{%- if messages | selectattr("role", "equalto", "system") | list | length == 0 -%}',
            f"{{%- set messages = {as_jinja(list(system))} + messages -%}}",
            "{%- endif -%}",
        ]
    return lines
