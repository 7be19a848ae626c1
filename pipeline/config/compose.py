"""params.yaml with what an example says differs, put over the params of before.

The params that an example was put over are kept aside in `params.yaml.before`: another example is
put over those, so that examples do not add up, and `restore` brings them back. Edits of a composed
file are never written over.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.config.load import load_params, read_yaml
from pipeline.config.params import Params
from pipeline.errors import PipelineError
from pipeline.storage.records import write_text
from pipeline.workspace.paths import PARAMS

BEFORE = PARAMS.with_name("params.yaml.before")
_MARK = "# Composed of params.yaml.before and "
_WHOLE = ("initializations", "baselines", "trained_baselines")
"""Sections that list things of a person's own names: an example's list stands in their place."""


def compose(example: Path) -> None:
    """Write params.yaml: the params of before, with the example's keys in place of theirs.

    `initializations`, `baselines` and `trained_baselines` stand as the example writes them, and so
    do `model` and `data` where it names another `source`; of all other sections key by key.
    Raises PipelineError for an example that is missing or gives no valid params, and where
    something of the person's would be lost.
    """
    base = _base()
    text = _composed(base, example)
    _validate(text, example)
    write_text(BEFORE, base)
    write_text(PARAMS, text)


def restore() -> None:
    """Put the params of before back in place. Raises PipelineError when there are none."""
    if not BEFORE.exists():
        raise PipelineError(f"{BEFORE}: there is none; {PARAMS} is no composed one")
    _base()
    BEFORE.replace(PARAMS)


def _base() -> str:
    """The params that an example is put over."""
    text = _text(PARAMS)
    if not text.startswith(_MARK):
        if BEFORE.exists() and _text(BEFORE) != text:
            raise PipelineError(
                f"{BEFORE}: holds params that {PARAMS} is not composed of any more; move it away"
            )
        return text
    example = Path(text.splitlines()[0].removeprefix(_MARK))
    base = _text(BEFORE)
    if not example.exists() or _composed(base, example) != text:
        raise PipelineError(
            f"{PARAMS}: was edited since {example} was put over it; keep the edits in a file of "
            f"their own, and `mv {BEFORE} {PARAMS}`"
        )
    return base


def _composed(base: str, example: Path) -> str:
    # With their comments: this is the file that a person goes on to edit.
    yaml = YAML()
    yaml.width = 10_000
    params = yaml.load(base)
    changes = read_yaml(example)
    for section, keys in changes.items():
        known = params.get(section)
        if section not in Params.model_fields:
            raise PipelineError(
                f"{example}: {section} is no section; use one of: {', '.join(Params.model_fields)}"
            )
        if section in _WHOLE or not isinstance(known, CommentedMap) or _differs(known, keys):
            params[section] = keys
        else:
            known.update(keys)
    into = io.StringIO()
    yaml.dump(params, into)
    return f"{_MARK}{example.as_posix()}\n{into.getvalue()}"


def _differs(known: Any, keys: Any) -> bool:
    """Whether a section comes from another source, whose keys are others."""
    return "source" in keys and keys["source"] != known.get("source")


def _validate(text: str, example: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS
        path.write_text(text, encoding="utf-8")
        try:
            load_params(path)
        except PipelineError as error:
            raise PipelineError(str(error).replace(str(path), str(example))) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such file; run from the repository's root") from error
