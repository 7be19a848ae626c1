"""`dvc.lock` read at every stage: as YAML has it, and of a long sweep in a fraction of a second."""

import hashlib
import io
import operator
import re
import time
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config import Params
from pipeline.config.load import read_yaml
from pipeline.errors import PipelineError
from pipeline.orchestration.lock_file import LockFile
from pipeline.standing import last_runs, lock_file
from pipeline.standing.last_runs import LastRuns
from pipeline.standing.lock_file import stages_of
from pipeline.standing.standing import Standing
from pipeline.standing.steps import Kind, all_steps
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from tests.conftest import ROOT, Workspace


def without_commands(stages: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in stage.items() if key != "cmd"}
        for name, stage in stages.items()
    }


@pytest.mark.real
def test_what_dvc_writes_is_read_as_yaml(finished: Workspace) -> None:
    lock = finished.root / "dvc.lock"
    stages = stages_of(lock)
    assert stages == without_commands(read_yaml(lock)["stages"])
    assert stages["train@2-random-0"]["params"]["params.yaml"]["train"]["learning_rate"] == 5e-3


ODD = """\
schema: '2.0'
stages:
  train@2-a-0:
    cmd:
    - echo one
    - 'echo two: three'
    deps:
    - path: a file with spaces
      hash: md5
      md5: '12345678901234567890123456789012'
      size: 7
    - path: 'data/quoted: #1'
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 7
      nfiles: 2
    params:
      params.yaml:
        task:
          target_template: |-
            deps:

              - path: {{ answer }}
          rate: 1e-3
          none:
    outs:
    - path: data/plain
      hash: md5
      md5: abcdef
      size: 12
  '2':
    cmd: "a long command that is folded over
      lines"
    deps:
    - path: data/plain
      md5: abcdef
      size: 12
      files:
      - relpath: x
        md5: y
  bare:
    cmd: x
"""


@pytest.mark.parametrize(
    "text",
    [
        ODD,
        ODD.replace("  '2':\n", "  other:\n"),
        ODD.replace("    params:\n", "    params: &p\n").replace("cmd: x", "params: *p"),
        ODD.replace("schema: '2.0'\n", "# a comment\nschema: '2.0'\n"),
        ODD.replace("\n", "\r\n"),
        "schema: '2.0'\nstages: {}\n",
        "schema: '2.0'\n",
    ],
)
def test_what_is_written_otherwise_is_read_as_yaml(text: str, tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_bytes(text.encode())
    expected = read_yaml(lock).get("stages") or {}
    assert without_commands(stages_of(lock)) == without_commands(expected)


def test_a_rate_with_an_exponent_is_as_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python and DVC write 1e22: nothing of it is left to YAML, nor to DVC's own writer."""
    lock = tmp_path / "dvc.lock"
    stage, out = "train_at_rate@2-a-0-1e+22", "data/train/len2-a-seed0-lr1e+22/metrics.json"
    lock.write_text(ODD.partition("  train@2")[0])
    with lock.open("a") as file:
        file.write(f"  {stage}:\n    cmd: x\n    outs:\n    - path: {out}\n      size: 7\n")
    expected = without_commands(read_yaml(lock)["stages"])
    for name in ("YAML", "read_yaml"):
        monkeypatch.delattr(lock_file, name)
    assert dict(stages_of(lock)) == expected
    assert list(LockFile(lock, {})._found() or ()) == [stage]


@pytest.mark.parametrize(
    "damaged",
    [b"\xff\xfe", ODD[:300].encode() + b"\n<<<<<<< HEAD\n", b"", ODD.replace("1e-3", "{").encode()],
)
def test_a_damaged_one_is_refused_in_a_sentence(damaged: bytes, tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_bytes(damaged)
    with pytest.raises(PipelineError, match=r"dvc\.lock: "):
        dict(stages_of(lock))


def long_sweep() -> Params:
    """512 variants by the default params."""
    raw = read_yaml(ROOT / "params.yaml")
    raw["sweep"].update(lengths=list(range(1, 65)), seeds=list(range(8)), in_context=[])
    raw["sweep"]["initializations"] = ["random"]
    dumped = io.StringIO()
    YAML(typ="safe").dump(raw, dumped)
    paths.PARAMS.write_text(dumped.getvalue())
    return Params.model_validate(raw)


def _at(raw: dict[str, Any], key: str) -> str:
    """The value of a key's path in params.yaml."""
    return str(reduce(operator.getitem, key.split("."), raw))


def lock_of(params: Params) -> dict[str, Any]:
    """The entries of all trainings, and of the measurements of the first half."""
    described = read_yaml(ROOT / "dvc.yaml")["stages"]
    raw = read_yaml(paths.PARAMS)
    steps = [step for step in all_steps(params) if isinstance(step.row, Variant)]
    entries: dict[str, Any] = {}
    for step in steps:
        stage = described[step.kind.value]

        def of_variant(path: str, name: str = step.row.name) -> str:
            if "len${" in path:
                return "/".join(name if "len${" in part else part for part in path.split("/"))
            # DVC writes a path, and never the key that it was read from.
            filled = path.replace("${item.initialization}", "random")
            return re.sub(r"\$\{([\w.]+)\}", lambda key: _at(raw, key[1]), filled)

        for out in stage["outs"]:
            Path(of_variant(out)).parent.mkdir(parents=True, exist_ok=True)
            Path(of_variant(out)).touch()
        hashed = [
            {"path": path, "hash": "md5", "md5": hashlib.md5(path.encode()).hexdigest(), "size": 9}
            for path in map(of_variant, (*stage["deps"], *stage["outs"]))
        ]
        entries[step.stage] = {
            "cmd": f"python -m pipeline {step.stage}",
            "deps": hashed[: len(stage["deps"])],
            "params": {"params.yaml": {name: raw[name] for name in stage["params"]}},
            "outs": hashed[len(stage["deps"]) :],
        }
    measured = [step.stage for step in steps if step.kind is Kind.MEASUREMENT]
    return {k: v for k, v in entries.items() if k not in measured[len(measured) // 2 :]}


def test_a_thousand_stages_cost_a_fraction_of_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = long_sweep()
    # As DVC writes it; a YAML library takes ten seconds for that.
    lines = ["schema: '2.0'", "stages:"]
    for name, entry in lock_of(params).items():
        text = io.StringIO()
        yaml = YAML()
        yaml.dump({"params": entry["params"]}, text)
        lines += [f"  {name}:", f"    cmd: {entry['cmd']}", "    deps:"]
        lines += [_line for dep in entry["deps"] for _line in file_lines(dep)]
        lines += [f"    {line}".rstrip() for line in text.getvalue().splitlines()]
        lines += ["    outs:", *(_line for out in entry["outs"] for _line in file_lines(out))]
    Path("dvc.lock").write_text("\n".join(lines) + "\n")
    current = all_steps(params)[-3]
    read, taken_apart = _counted(monkeypatch)
    assert LastRuns.read().is_current("train@64-random-7")
    assert LastRuns.read().is_up_to_date("fetch_model") is False
    assert (len(read), len(taken_apart)) == (1, 1), "what a stage asks for, whatever else there is"
    began = time.process_time()
    standing = Standing.at(params, current.stage)
    assert standing is not None
    assert standing.sentence() == "512 of 512 trained, 256 of 514 measured"
    assert time.process_time() - began < 2
    assert (len(read), len(taken_apart)) == (1, 768), "each stage once"
    standing = Standing(current, [], standing.waiting, dict.fromkeys(standing.done, 60.0))
    began = time.process_time()
    for _ in range(20):
        standing.sentence(0.5, 30.0)
    # Drawn ten times a second.
    assert time.process_time() - began < 0.2


def _counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[str]]:
    """The lock files read, and the stages taken apart, from now on."""
    read: list[Path] = []
    taken_apart: list[str] = []
    stage = lock_file._stage

    def noted(text: str, *how: Any) -> dict[str, Any]:
        taken_apart.append(text)
        return stage(text, *how)

    def counted(lock: Path) -> Mapping[str, Any]:
        read.append(lock)
        return stages_of(lock)

    monkeypatch.setattr(last_runs, "stages_of", counted)
    monkeypatch.setattr(lock_file, "_stage", noted)
    return read, taken_apart


def file_lines(file: dict[str, Any]) -> list[str]:
    first, *others = [f"{key}: {value}" for key, value in file.items()]
    return [f"    - {first}", *(f"      {line}" for line in others)]
