"""Reading `dvc.lock` at every stage of a long sweep: a thousand stages in a fraction of a second.

A YAML parser takes ten milliseconds a stage, of which nearly all is spent on what many stages share
(code, params) and on hashes. Here YAML parses what is said alike only once, and the plain lines of
files not at all. A stage that is written in any other way than DVC's is YAML's in whole. And a
stage is taken apart when it is asked for: a worker that runs the sweep asks for a few.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.config.load import read_yaml

# `  train@8-random-0:`, and all below it, which is indented by more.
_STAGE = re.compile(r"^  ([\w@./+-]+):\n((?:(?:   .*)?\n)*)", re.MULTILINE)
# `    deps:`, and all below it: lists start at the same column, other values further right.
_PART = re.compile(r"^    (\w+):((?: .*)?\n(?:(?:     .*|    - .*)?\n)*)", re.MULTILINE)
# `    - path: data/model`, and its plain `md5`, `size`, ...; what needs quotes is no such line.
_FILE = re.compile(r"    - path: ([\w./@+-]+)\n((?:      \w+: [\w.]+\n)*)")
_OF_A_FILE = re.compile(r"      (\w+): ([\w.]+)\n")
_NUMBERS = ("size", "nfiles")


def stages_of(lock: Path) -> Mapping[str, Any]:
    """The stages of a lock file by name, each with its deps, params and outs as DVC wrote them.

    Raises PipelineError for what is no YAML, here or when a stage is asked for.
    """
    # What is no UTF-8 is YAML's to refuse.
    with contextlib.suppress(ValueError):
        head, _, stages = lock.read_text(encoding="utf-8").partition("stages:\n")
        found = list(_STAGE.finditer(stages))
        if head == "schema: '2.0'\n" and sum(len(stage[0]) for stage in found) == len(stages):
            return _Stages(lock, {stage[1]: stage[2] for stage in found})
    return _by_yaml(lock)


class _Stages(Mapping[str, Any]):
    """Stages by name, each taken apart once."""

    def __init__(self, lock: Path, texts: dict[str, str]) -> None:
        self._lock, self._texts = lock, texts
        self._known: dict[str, Any] = {}
        # Of equal texts only once, and forgotten with the lock that they stand in.
        self._parsed = cache(_as_yaml)
        self._files = cache(lambda part: _files(part, self._parsed))

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            try:
                self._known[name] = _stage(self._texts[name], self._parsed, self._files)
            except (YAMLError, ValueError):
                # A part that is none by itself, as an alias of another; or no YAML at all.
                self._known = _by_yaml(self._lock)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _by_yaml(lock: Path) -> dict[str, Any]:
    return dict(read_yaml(lock).get("stages") or {})


def _stage(text: str, parsed: Callable[[str], Any], files: Callable[[str], Any]) -> dict[str, Any]:
    parts = list(_PART.finditer(text))
    if "".join(part[0] for part in parts) != text:
        return dict(parsed(text))
    # Commands are not looked at, and each is one of its own.
    return {
        part[1]: (files if part[1] in ("deps", "outs") else parsed)(part[2])
        for part in parts
        if part[1] != "cmd"
    }


def _files(text: str, parsed: Callable[[str], Any]) -> list[dict[str, Any]]:
    found = list(_FILE.finditer(text))
    if "\n" + "".join(file[0] for file in found) != text:
        return list(parsed(text))
    return [{"path": file[1], **_facts(file[2])} for file in found]


def _facts(text: str) -> dict[str, Any]:
    return {k: int(v) if k in _NUMBERS else v for k, v in _OF_A_FILE.findall(text)}


def _as_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)
