"""Reading params.yaml, with each mistake told as one sentence that names its key."""

import difflib
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.config.interpolation import refused_by_dvc
from pipeline.config.params import Params
from pipeline.errors import PipelineError
from pipeline.schema.section import Section
from pipeline.workspace.paths import PARAMS

_TAGS = ("source", "type", "library")
"""The keys that tell a section from its alternatives."""


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate a params file.

    Raises PipelineError with a line for each mistake: file, key path, value found, what is right.
    """
    raw = read_yaml(path)
    mistakes = [f"{sentence}." for sentence in refused_by_dvc(raw)]
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        mistakes += [_sentence(raw, e) for e in error.errors()]
    if mistakes:
        raise PipelineError("\n".join(f"{path}: {mistake}" for mistake in dict.fromkeys(mistakes)))
    return params


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file (so that `1e-3` is a number, as DVC reads it)."""
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such file; run from the repository's root") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise PipelineError(f"{path}: is no valid YAML{where}: {problem}") from error
    except YAMLError as error:
        raise PipelineError(f"{path}: is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise PipelineError(f"{path}: must be a mapping of sections (model, data, task, ...)")
    return raw


def _sentence(raw: dict[str, Any], error: ErrorDetails) -> str:
    kind = error["type"]
    loc = _key_path(raw, error["loc"], lacks_last=kind == "missing")
    key = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        known = _known_keys(error["loc"])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}."
        homes = [name for name, section in _plain_sections() if loc[-1] in section.model_fields]
        if len(loc) == 2 and len(homes) == 1:
            hint = f"write it as {homes[0]}.{loc[-1]}."
        return f"{key}: unknown key; {hint}"
    if kind == "missing":
        if loc[-1] == "path":
            return (
                f"{key}: is missing; add the file or folder that DVC watches, for what lies "
                "elsewhere requirements.lock."
            )
        return f"{key}: is missing; add it."
    if kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        separator = " " if message.startswith(("is ", "lists ")) else ": "
        return f"{key}{separator}{message}." if key else f"{message}."
    if kind == "union_tag_invalid":
        context = error["ctx"]
        tag = str(context["discriminator"]).strip("'")
        return (
            f"{key}.{tag} = '{context['tag']}' is unknown; use one of {context['expected_tags']}."
        )
    if kind == "union_tag_not_found":
        tag = str(error["ctx"]["discriminator"]).strip("'")
        return f"{key}.{tag}: is missing; it says which kind this is."
    message = re.sub("^(Input|String|List) ", "", error["msg"])
    if kind in ("model_type", "model_attributes_type"):
        message = "should be a mapping of keys"
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        message = f"should match the pattern {pattern}"
    return f"{key} = {_shown(error['input'])} {message}."


def _key_path(raw: dict[str, Any], loc: tuple[int | str, ...], lacks_last: bool) -> list[int | str]:
    """The error's location without pydantic's union tags, which are no keys of the file.

    `lacks_last`: the last part is a key that the file ought to have.
    """
    path: list[int | str] = []
    node: Any = raw
    skipped = False
    for index, part in enumerate(loc):
        is_last = index == len(loc) - 1
        # A tag comes first below its mapping, and may be spelt like one of the mapping's keys.
        if isinstance(node, dict) and not skipped and part in map(node.get, _TAGS):
            skipped = True
            continue
        if isinstance(node, dict) and part not in node and not (is_last and lacks_last):
            continue
        if part == "[key]":
            continue
        path.append(part)
        skipped = False
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
    return path


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that holds `loc`, for a location with pydantic's union tags."""
    sections: list[type[Section]] = [Params]
    for part in loc[:-1]:
        tagged = [section for section in sections if _tag(section) == part]
        inner = [
            nested
            for section in sections
            if part in section.model_fields
            for nested in _sections_in(section.model_fields[str(part)].annotation)
        ]
        # Neither: the part is a name that the user gave inside a mapping.
        sections = tagged or inner or sections
    return sorted({name for section in sections for name in section.model_fields})


def _plain_sections() -> list[tuple[str, type[Section]]]:
    """The sections that have the same keys whatever they hold."""
    return [
        (name, field.annotation)
        for name, field in Params.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ]


def _tag(section: type[Section]) -> str | None:
    """The value of the key that tells this section from its alternatives, if it is one."""
    for name in _TAGS:
        field = section.model_fields.get(name)
        arguments: tuple[Any, ...] = getattr(field and field.annotation, "__args__", ())
        if len(arguments) == 1:
            return str(arguments[0])
    return None


def _sections_in(annotation: Any) -> list[type[Section]]:
    """Every section class inside a field's annotation (unions and mappings unfolded)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [section for argument in arguments for section in _sections_in(argument)]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
