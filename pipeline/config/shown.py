"""Params as a page shows them, the same on every machine."""

import io
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML

from pipeline.config.params import Params


def shown_params(params: Params, sections: Iterable[str]) -> str:
    """Sections of params.yaml as YAML, defaults filled in, absolute paths by their last part."""
    values = params.model_dump(include=set(sections))
    return as_yaml({name: values[name] for name in sections})


def as_yaml(value: Any) -> str:
    """Plain values as YAML text; an absolute path is its last part, which names it anywhere."""
    yaml = YAML()
    yaml.default_flow_style = False
    into = io.StringIO()
    yaml.dump(_portable(value), into)
    return into.getvalue()


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and "\n" not in value and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
