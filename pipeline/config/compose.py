"""params.yaml with what an example says differs, put over the params of before.

The params that an example was put over are kept aside in `params.yaml.before`: another example is
put over those, so that examples do not add up, and `restore` brings them back. Edits of a composed
file are never written over.
"""

import hashlib
import io
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from pipeline.config.load import load_params, read_yaml
from pipeline.config.params import Params
from pipeline.errors import PipelineError
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import write_text
from pipeline.workspace.paths import PARAMS

BEFORE = PARAMS.with_name("params.yaml.before")
_MARK = re.compile(r"# params\.yaml\.before with (.*), unedited while sha256 (\w+) holds\n")
# These list things under names of a person's choice, which are meant together.
_WHOLE = (
    *("self_study", "initializations", "baselines", "teachers", "trained_baselines"),
    "library",
)
# One that differs in any of these comes from elsewhere, where other keys hold.
_ORIGIN = ("source", "id", "package", "path")


def compose(example: Path) -> None:
    """Write params.yaml: the params of before, with the example's keys in place of theirs.

    `self_study`, `initializations`, `baselines`, `teachers`, `trained_baselines` and `library`
    stand as the example writes them, and so do `model` and `data` where it names another source;
    of all other sections key by key.
    Raises PipelineError for an example that is missing or gives no valid params, and where
    something of the person's would be lost.
    """
    base = _base()
    text = composed(base, example)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _validate(text, example)
    with atomic_file(BEFORE) as aside:
        shutil.copyfile(base, aside)
    mark = f"# params.yaml.before with {example.as_posix()}, unedited while sha256 {digest} holds\n"
    write_text(PARAMS, mark + text)


def restore() -> None:
    """Put the params of before back in place. Raises PipelineError when there are none."""
    if not BEFORE.exists():
        raise PipelineError(f"{BEFORE}: there is none that could be put back")
    _base()
    BEFORE.replace(PARAMS)


def _base() -> Path:
    """The file of the params that an example is put over."""
    read_yaml(PARAMS)
    text = PARAMS.read_text(encoding="utf-8")
    mark = _MARK.match(text)
    if not BEFORE.exists():
        return PARAMS
    if mark is None and BEFORE.read_bytes() != PARAMS.read_bytes():
        raise PipelineError(
            f"{BEFORE}: holds params that {PARAMS} is not composed of any more; move it away"
        )
    if mark is not None and hashlib.sha256(text[mark.end() :].encode()).hexdigest() != mark[2]:
        raise PipelineError(
            f"{PARAMS}: was edited since {mark[1]} was put over it; keep the edits in a file of "
            f"their own, and `mv {BEFORE} {PARAMS}`"
        )
    return BEFORE


def composed(base: Path, example: Path) -> str:
    """The text of the file `base`, its comments included, with the keys of the file `example`.

    Raises PipelineError for an example that has other sections, or none that can be told apart.
    """
    text = _MARK.sub("", base.read_text(encoding="utf-8"), count=1)
    params, changes = read_yaml(base), read_yaml(example)
    _refuse_what_is_no_section(changes, example)
    theirs = sections_of(example.read_text(encoding="utf-8"))
    parts: list[str] = []
    expected: dict[str, Any] = {}
    for name, (comment, body) in sections_of(text).items():
        expected[name] = params.get(name)
        if name in changes and _is_whole(name, changes[name], params[name]):
            expected[name], body = changes[name], theirs.get(name, ("", ""))[1]
        elif name in changes:
            expected[name] = _joined(params[name], changes[name])
            body = with_values(body, {name: changes[name]})
        parts.append(comment + body)
    for name in changes.keys() - expected.keys():
        expected[name] = changes[name]
        parts.append("\n" + theirs.get(name, ("", ""))[1])
    whole = "".join(parts)
    if YAML(typ="safe").load(whole) != expected:
        raise PipelineError(
            f"{example}: cannot be put over {base}; begin each section of both with its name and "
            "a colon at the beginning of a line, and use no anchors across sections"
        )
    return whole


def _refuse_what_is_no_section(changes: dict[str, Any], example: Path) -> None:
    for name, keys in changes.items():
        if name not in Params.model_fields:
            raise PipelineError(
                f"{example}: {name} is no section; use one of: {', '.join(Params.model_fields)}"
            )
        if not isinstance(keys, dict):
            raise PipelineError(f"{example}: {name} holds no keys; write those that differ below")


def _is_whole(name: str, keys: dict[str, Any], known: Any) -> bool:
    """Whether the example's section stands for the base's, not key by key."""
    if name in _WHOLE or not isinstance(known, dict):
        return True
    return "source" in keys and any(keys[k] != known.get(k) for k in _ORIGIN if k in keys)


def sections_of(text: str) -> dict[str, tuple[str, str]]:
    """Each section's comment, the lines right above it that begin with one, and its own lines."""
    head, *rest = re.split(r"^([A-Za-z_]\w*)(?=\s*:)", text, flags=re.MULTILINE)
    found: dict[str, tuple[str, str]] = {}
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        lines = body.splitlines(keepends=True)
        end = len(lines)
        while end > 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1
        found[name] = (head, name + "".join(lines[:end]).rstrip("\n") + "\n")
        head = "".join(lines[end:])
    return found


def _joined(known: Any, keys: Any) -> Any:
    """Mappings key by key, and all else in place of what was there."""
    if not isinstance(known, dict) or not isinstance(keys, dict):
        return keys
    return {**known, **{key: _joined(known.get(key), value) for key, value in keys.items()}}


def with_values(body: str, values: dict[str, Any]) -> str:
    """A section's lines with other values; comments beside and between the keys stay."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.preserve_quotes = True
    yaml.representer.add_representer(type(None), _null)
    section = yaml.load(body)
    _update(section, values)
    into = io.StringIO()
    yaml.dump(section, into)
    return into.getvalue()


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _update(known: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            _update(known[key], value)
        else:
            known[key] = _written_as(known.get(key), value)


def _written_as(known: Any, value: Any) -> Any:
    """A value written as the one before it was: a list on one line, a text in its quotes."""
    if isinstance(value, str) and "\n" in value and value.strip() == value:
        return LiteralScalarString(value)
    if isinstance(value, str) and isinstance(known, DoubleQuotedScalarString):
        return DoubleQuotedScalarString(value)
    if isinstance(value, list) and isinstance(known, CommentedSeq):
        items = CommentedSeq(value)
        if known.fa.flow_style():
            items.fa.set_flow_style()
        return items
    return value


def _validate(text: str, example: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS
        path.write_text(text, encoding="utf-8")
        try:
            load_params(path)
        except PipelineError as error:
            raise PipelineError(str(error).replace(str(path), str(example))) from error
