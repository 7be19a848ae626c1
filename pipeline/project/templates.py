"""Templates over the columns that were told apart."""

import re
from keyword import iskeyword

from jinja2 import meta
from jinja2.sandbox import SandboxedEnvironment

from pipeline.data.templates import ALL_COLUMNS
from pipeline.errors import PipelineError
from pipeline.project.columns import Roles, words_of
from pipeline.project.values import ANSWERS, TEXTS, TURNS, Column

_ENVIRONMENT = SandboxedEnvironment()
# A list of these is one target; of all others each item is a target of its own.
_SETS = ("labels", "tags", "topics", "categories", "classes", "emotions", "genres", "keywords")
_TAKEN = (*_ENVIRONMENT.globals, ALL_COLUMNS, "loop", "self", "super", "caller")


def variable(name: str) -> str:
    """A column in a template: its name, or `row['its name']` where that is no word of its own."""
    if name.isascii() and name.isidentifier() and name not in _TAKEN and not iskeyword(name):
        try:
            if meta.find_undeclared_variables(_ENVIRONMENT.parse(f"{{{{ {name} }}}}")) == {name}:
                return name
        except Exception:  # a keyword of Jinja2's: each fails in a way of its own
            pass
    # `${` in params.yaml would be DVC's.
    quoted = repr(name).replace("$", "\\x24").replace("{", "\\x7b").replace("}", "\\x7d")
    return f"row[{quoted}]"


def input_template(roles: Roles, is_continued: bool) -> str:
    """What the model reads; where it goes on from it by itself, with a word that asks for it."""
    parts: list[str] = []
    for column in roles.inputs:
        printed = _printed(column, "\n\n")
        has_gaps = column.blanks > 0 and column is not roles.main
        gap = "" if column is roles.inputs[-1] else "\n\n"
        if has_gaps and not gap:
            printed = "\n\n" + printed
            parts[-1] = parts[-1].removesuffix("\n\n")
        inner = printed + gap
        parts.append(
            f"{{% if {variable(column.name)} %}}{inner}{{% endif %}}" if has_gaps else inner
        )
    asked = f"\n\n{_title(roles.target.name)}:" if is_continued else ""
    return "".join(parts) + asked


def target_template(roles: Roles, is_continued: bool) -> str:
    """What it is to write."""
    of_a_list = _is_set(roles.target)
    printed = _printed(roles.target, ", " if of_a_list else "\n", first_of_list=not of_a_list)
    return (" " if is_continued else "") + printed


def word_templates(roles: Roles, separator: str) -> tuple[str, str]:
    """Words and their labels, as many."""
    mark = "\\n" if separator == "\n" else separator
    words, tags = (variable(column.name) for column in (roles.main, roles.target))
    return f"{{{{ {words} | join('{mark}') }}}}", f"{{{{ {tags} | join('{mark}') }}}}"


def references_column(roles: Roles) -> str | None:
    """The target's column where it lists several accepted ones."""
    is_list = roles.target.kind in (ANSWERS, TEXTS) and not _is_set(roles.target)
    return roles.target.name if is_list else None


def _is_set(column: Column) -> bool:
    named = words_of(column.name)
    return column.kind == TEXTS and any(
        named == name or named.endswith(f"_{name}") for name in _SETS
    )


def _printed(column: Column, between: str, first_of_list: bool = False) -> str:
    name = variable(column.name)
    if column.kind == ANSWERS:
        return f"{{{{ {name}['text'][0] }}}}"
    if column.kind == TEXTS:
        mark = between.replace("\n", "\\n")
        return f"{{{{ {name}[0] }}}}" if first_of_list else f"{{{{ {name} | join('{mark}') }}}}"
    if column.kind == TURNS:
        raise PipelineError(f"--input: '{column.name}' holds turns of a chat; name no other column")
    return f"{{{{ {name} }}}}"


def _title(name: str) -> str:
    words = " ".join(re.sub(r"[\W_]+", " ", name).split())
    return words[:1].upper() + words[1:] if words else "Answer"
