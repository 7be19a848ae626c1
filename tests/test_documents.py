"""The documents' snippets work as they are pasted, and name what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from jinja2.meta import find_undeclared_variables
from ruamel.yaml import YAML

from pipeline.cli.main import main
from pipeline.config import load_params
from tests.conftest import CORPUS, ROOT
from tests.prefix.architectures import SETTINGS
from tests.prefix.encoders import ENCODER_DECODERS, ENCODERS
from tests.prefix.table import TITLE

DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/README.md"))
}


def snippets(language: str, containing: str = "") -> list[Any]:
    """The fenced snippets of all documents that have a line that begins so, with where each is."""
    found = []
    for name, path in DOCUMENTS.items():
        fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
        for at, text in enumerate(fence.findall(path.read_text(encoding="utf-8"))):
            if re.search(rf"^{containing}", text, flags=re.MULTILINE):
                found.append(pytest.param(text, id=f"{name}-{at}"))
    assert found, f"no document has a {language} snippet with {containing!r}"
    return found


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_a_params_snippet_replaces_its_sections(snippet: str, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    params: dict[str, Any] = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params.update(yaml.load(snippet))
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    assert load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("section", ["self_study", "teachers", "library", "trained_baselines"])
def test_what_params_yaml_shows_of_an_empty_section_is_valid(section: str, tmp_path: Path) -> None:
    """The comment above it, without its marks, in place of `section: {}`."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    shown = re.search(rf"^#   {section}:\n(?:#     .*\n)+", text, flags=re.MULTILINE)
    assert shown
    section_of = re.sub(r"^#   ", "", shown[0], flags=re.MULTILINE)
    filled = text.replace(f"\n{section}: {{}}\n", f"\n{section_of}")
    assert filled != text
    (tmp_path / "params.yaml").write_text(filled, encoding="utf-8")
    assert getattr(load_params(tmp_path / "params.yaml"), section) != getattr(
        load_params(ROOT / "params.yaml"), section
    )


@pytest.mark.parametrize("snippet", snippets("yaml", "task:"))
def test_a_snippet_s_starts_name_columns_of_its_task(snippet: str) -> None:
    """Templates over the columns of other data would end `check` and `kv_prefix`."""
    yaml = YAML(typ="safe")
    default = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params = {**default, **yaml.load(snippet)}
    starts = params["initializations"].values()
    needed = _columns(*(start["template"] for start in starts if start.get("template")))
    columns = _columns(*params["task"].values())
    # The default data's own, whichever of them a task reads.
    known = {"record", "question", "answer", "topic", "section", "country"}
    assert needed <= (known if columns <= known else columns)


def _columns(*templates: Any) -> set[str]:
    parse = Environment().parse
    return {
        name
        for template in templates
        if isinstance(template, str)
        for name in find_undeclared_variables(parse(template))
    }


@pytest.mark.parametrize("snippet", snippets("python", "frozen_model = AutoModel"))
def test_the_python_snippet(
    snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model").symlink_to(model_folder)
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "reading_records.txt").write_text(CORPUS)
    names: dict[str, Any] = {}
    exec(compile(snippet, "snippet", "exec"), names)
    assert names["again"].prefix_config.num_virtual_tokens == 20
    assert (tmp_path / "my-prefix" / "adapter_model.safetensors").exists()
    frozen = [p for p in names["frozen_model"].parameters() if p.grad is not None]
    assert not frozen
    assert all(p.grad is not None for p in names["model"].encoder.parameters())


@pytest.mark.parametrize("snippet", snippets("sh"))
def test_the_commands_are_there(snippet: str) -> None:
    """Of make each target; of the command line each command and option; each params file."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in snippet.replace("\\\n", " ").splitlines():
        words = line.partition(" #")[0].split()
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        for file in re.findall(r"PARAMS=(\S+)", line):
            assert (ROOT / file).exists(), line
        if words[:3] == ["python", "-m", "pipeline"]:
            command = main if words[3].startswith("-") else main.commands[words[3]]
            known = {name for option in command.params for name in option.opts}
            asked = {word.partition("=")[0] for word in words[3:] if word.startswith("--")}
            assert asked <= known | {"--help"}, line
        if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("tests", "benchmarks"):
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), line


def tree(drawn: str) -> list[str]:
    """The paths of a file tree, each line's under the folder that it is indented below."""
    paths: list[str] = []
    folders: list[str] = []
    for line in drawn.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        paths.append("".join(folders))
    return paths


@pytest.mark.parametrize("drawn", snippets("text", "params.yaml  "))
def test_the_tree_is_that_of_the_repository(drawn: str) -> None:
    paths = tree(drawn)
    for path in paths:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("pipeline/*/__init__.py")}
    parts = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("pipeline/prefix/*/*.py")}
    assert rooms | parts <= set(paths)


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_paths_it_names_exist(name: str) -> None:
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    for path in re.findall(r"`((?:pipeline|tests|docs|examples|corpora)/[^`*<> ]+)", text):
        assert (ROOT / path).exists(), path


def test_they_count_the_architectures_of_the_tables() -> None:
    counted = {
        (name, *found)
        for name, path in DOCUMENTS.items()
        for found in re.findall(r"(\d+) decoders and (\d+) models with", path.read_text("utf-8"))
        if name != "CHANGELOG.md"  # It says what there was.
    }
    wanted = (str(len(SETTINGS)), str(len(ENCODER_DECODERS) + len(ENCODERS)))
    assert counted
    assert {tuple(found) for _, *found in counted} == {wanted}
    written = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").partition(TITLE)[2]
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) == len(SETTINGS) + len(ENCODER_DECODERS) + len(ENCODERS) + 4
