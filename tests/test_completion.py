"""A shell completes commands, options, names out of params.yaml, and files; quickly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.completion import VARIABLE
from pipeline.cli.main import main
from tests.conftest import REAL, ROOT
from tests.test_command_line import HEAVY

OF_A_SEED = ("", "-train50", "-lr0.01")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default params, an example, a trained variant that params.yaml no longer lists."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    adapter = "baselines:\n  theirs: {type: adapter, path: adapters/theirs}\n"
    for found, put in (
        ("baselines:\n", adapter),
        ("trained_baselines: {}\n", "trained_baselines: {lora: {type: lora}}\n"),
        ("  train_sizes: []", "  train_sizes: [50]"),
        ("  learning_rates: []", "  learning_rates: [1.0e-2]"),
    ):
        assert found in text
        text = text.replace(found, put, 1)
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "webnlg.yaml", tmp_path / "examples")
    trained = tmp_path / "data" / "train" / "len4-zero-seed7"
    trained.mkdir(parents=True)
    (trained / "prefix.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(*words: str) -> list[str]:
    """What click answers for the last of the words; of a file only that it is one."""
    environment = {VARIABLE: "bash_complete", "COMP_CWORD": str(len(words))}
    environment["COMP_WORDS"] = "\n".join(["prefix-tuning", *words])
    result = CliRunner().invoke(main, env=environment, complete_var=VARIABLE)
    lines = [line.split(",", 1) for line in result.stdout.splitlines() if line]
    return [value if kind == "plain" else f"<{kind}>" for kind, value in lines]


def test_commands_and_options(folder: Path) -> None:
    assert completed("ge") == ["generate"]
    assert set(completed("")) == set(main.commands)
    assert "--variant" in completed("generate", "--v")
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert completed("init", "new", "--task", "seq_") == ["seq_cls"]


def test_variants_trained_and_to_be_trained_and_adapters(folder: Path) -> None:
    found = completed("generate", "--variant", "")
    assert found[:2] == ["best", "len4-zero-seed7"]
    assert "len32-instructions-seed0" in found
    assert found[-1] == "theirs"
    assert completed("export", "out", "--variant", "len4") == ["len4-zero-seed7"]
    assert completed("generate", "--prefix", "len4") == ["len4-zero-seed7"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kv_prefix", "d"], ["demonstrations"]),
        (["baselines", "no"], ["no_prefix"]),
        (["train", "--initialization", "in"], ["instructions"]),
        (["train", "--length", ""], ["8", "32"]),
        (["evaluate", "--seed", ""], ["0"]),
        (["in_context", "--initialization", ""], ["demonstrations"]),
        (["train_baseline", ""], ["lora"]),
        (["evaluate_baseline", "lora", "--seed", ""], ["0"]),
        (["train_baseline", "lora", "--train-size", ""], ["50"]),
        (["train", "--learning-rate", ""], ["0.01"]),
        (["demo", "--variant", "len8-r"], [f"len8-random-seed0{of}" for of in OF_A_SEED]),
        (["demo", "--variant", "b"], []),
        (["inspect", "len4"], ["len4-zero-seed7"]),
        (["params", ""], ["examples/webnlg.yaml"]),
        (["params", "mine"], ["<file>"]),
        (["generate", "--file", ""], ["<file>"]),
        (["init", "new", "--data", ""], ["<file>"]),
    ],
)
def test_what_an_argument_can_be(folder: Path, words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


@pytest.mark.parametrize("text", [None, "model: [", "[1]", "sweep: 3"])
def test_params_that_cannot_be_read_complete_nothing(folder: Path, text: str | None) -> None:
    path = folder / "params.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert completed("kv_prefix", "") == []
    # What is trained is there all the same.
    assert completed("generate", "--variant", "") == ["best", "len4-zero-seed7"]
    assert completed("ch") == ["check"]


def test_it_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys, atexit\n"
        f"heavy = lambda: print('heavy', [n for n in {HEAVY} if n in sys.modules])\n"
        "atexit.register(heavy)\n"
        "from pipeline.__main__ import run\n"
        "run()\n"
    )
    words = "prefix-tuning\ngenerate\n--variant\nlen4"
    environment = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "3"}
    environment["PYTHONPATH"] = str(ROOT)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.stdout == "plain,len4-zero-seed7\nheavy []\n"


BASH = """
compopt() { echo "<$2>"; }
asked() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _prefix_tuning "$1"
    echo "${COMPREPLY[@]}"
}
asked python -m pipeline train --initialization in
asked python3 -m pipeline generate --variant len4
asked python -m pipeline generate --file ""
asked python -m pi
complete -p python prefix-tuning | wc -l
"""
# The functions that complete for a person stand in for zsh's own, which need its line editor.
ZSH = """
compdef() { }
compadd() { print -- ${(P)@[-1]} }
_describe() { print -- ${(P)@[-2]} }
_path_files() { print -- "<default>" }
_python() { print -- "" }
asked() { words=("$@"); CURRENT=$#; _prefix_tuning }
"""
FISH = """
complete -C "python -m pipeline train --initialization in"
complete -C "python3 -m pipeline generate --variant len4"
"""


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_asks_as_its_script_says(folder: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    script = CliRunner().invoke(main, ["completion", shell]).stdout
    calls = "\n".join(line for line in BASH.splitlines() if line.startswith("asked py"))
    asking = {"bash": script + BASH, "zsh": ZSH + script + calls, "fish": script + FISH}
    path = folder / "asking"
    path.write_text(asking[shell])
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    path_of_python = os.pathsep.join((str(REAL), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path_of_python, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [shell, *options, str(path)], env=environment, capture_output=True, text=True
    )
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[:2] == ["instructions", "len4-zero-seed7"], result.stderr
    assert lines[2:] == {"bash": ["<default>", "2"], "zsh": ["<default>"], "fish": []}[shell]
