"""A whole params.yaml out of an example's few keys: the default, with those in their place."""

import io
import itertools
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.config.load import load_params, read_yaml
from pipeline.errors import PipelineError
from pipeline.storage.atomic import atomic_file

# The params.yaml that this version comes with, wherever it is run and whatever was edited.
DEFAULT = Path(__file__).with_name("default_params.yaml")

# What these define is meant together, under names of the writer's choice.
_WHOLE = ("initializations", "baselines", "trained_baselines")
# So is what these say of another source, whose keys are others.
_WHOLE_BY_SOURCE = ("model", "data")


def compose(example: Path) -> str:
    """The text of params.yaml: the default, its comments included, with the keys of `example`.

    A section of `example` stands as it is written there where it defines names or another source;
    of any other, its keys replace those of the default. Raises PipelineError for a file that is no
    mapping of sections, and for a section that the default has not.
    """
    asked, defaults = read_yaml(example), read_yaml(DEFAULT)
    if unknown := [name for name in asked if name not in defaults]:
        raise PipelineError(
            f"{example}: {unknown[0]}: unknown section; known sections: {', '.join(defaults)}"
        )
    written = example.read_text(encoding="utf-8")
    theirs, values = _sections(written), _yaml().load(written)
    title = f"# The default with {example.as_posix()}, put together by `python -m pipeline params`."
    parts = [title]
    if theirs:
        (head, _), *_ = theirs.values()
        parts += [head.strip("\n")] if head.strip() else []
    parts.append("")
    expected = {}
    for name, (comment, body) in _sections(DEFAULT.read_text(encoding="utf-8")).items():
        default, own = defaults[name], asked.get(name)
        if own is None and name not in (asked if name in _WHOLE else ()):
            expected[name] = default
        elif _is_whole(name, own, default):
            expected[name], body = own, theirs.get(name, ("", ""))[1]
        else:
            expected[name], body = default | own, _replaced(name, body, values[name])
        parts.append((comment + body).rstrip("\n"))
    text = "\n".join(parts) + "\n"
    if YAML(typ="safe").load(text) != expected:
        raise PipelineError(
            f"{example}: cannot be put together with the default; begin each section with its "
            "name and a colon at the beginning of a line, and use no anchors across sections"
        )
    return text


def write_composed(text: str, path: Path, example: Path) -> Path | None:
    """Let a composed text be `path` once it is valid; returns where the file before is kept.

    That is `<path>.before`, or `.before-2` and so on where that holds something else; None when
    `path` did not exist. Raises PipelineError with a line for each mistake, in the name of
    `example`; then nothing has changed.
    """
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
        try:
            load_params(aside)
        except PipelineError as error:
            raise PipelineError(str(error).replace(str(aside), str(example))) from error
        return _keep(path) if path.exists() else None


def _sections(text: str) -> dict[str, tuple[str, str]]:
    """Each section's comment, the lines right above that begin with one, and its own lines."""
    found = re.split(r"^((?:(?:#.*)?\n)*)([a-z_]+)(?=:)", text, flags=re.MULTILINE)
    return {
        name: (comment, name + body)
        for comment, name, body in zip(found[1::3], found[2::3], found[3::3], strict=True)
    }


def _is_whole(name: str, own: Any, default: Any) -> bool:
    """Whether the example's section stands for the default's, key by key or not."""
    if name in _WHOLE or not isinstance(own, dict):
        return True
    return name in _WHOLE_BY_SOURCE and own.get("source", default["source"]) != default["source"]


def _replaced(name: str, body: str, values: dict[str, Any]) -> str:
    """A section's lines with other values; comments beside and between the keys stay."""
    yaml = _yaml()
    section = yaml.load(body)
    for key, value in values.items():
        section[name][key] = value
    into = io.StringIO()
    yaml.dump(section, into)
    return into.getvalue()


def _keep(path: Path) -> Path:
    """Copy a file beside itself, over no copy of anything else."""
    content = path.read_bytes()
    for number in itertools.count(1):
        kept = path.with_name(f"{path.name}.before{f'-{number}' if number > 1 else ''}")
        if not kept.exists():
            with atomic_file(kept) as aside:
                aside.write_bytes(content)
            return kept
        if kept.read_bytes() == content:
            return kept
    raise AssertionError("counting has no end")


def _yaml() -> YAML:
    """Reads and writes lines as they are."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10**6
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml
