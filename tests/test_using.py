"""Using what was trained: `generate`, `export` and `import`, and the MLflow model."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from pipeline.cli.main import main
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_tokens
from tests.conftest import Workspace, tiny_model, tiny_tokenizer
from tests.sweep_runs import client, ran
from tests.written_sweep import params_of

pytestmark = pytest.mark.real

NAME = "len4-corpus-seed0"


@pytest.fixture
def inside(finished: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """This process inside the finished workspace, which a test here leaves as it is."""
    monkeypatch.chdir(finished.root)
    return finished


def run(*arguments: str, text: str | None = None) -> str:
    result = CliRunner().invoke(main, list(arguments), input=text)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*arguments: str, text: str | None = None) -> str:
    result = CliRunner().invoke(main, list(arguments), input=text)
    assert result.exit_code != 0
    assert "Traceback" not in result.stderr
    return result.stderr


def predictions(workspace: Workspace, name: str = NAME) -> list[dict[str, Any]]:
    path = workspace.root / "data" / "evaluate" / name / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["split"] == "test"]


def elsewhere(
    workspace: Workspace, code: str, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Code in another folder, this project not on its path, with the workspace's MLflow store."""
    store = f"sqlite:///{workspace.root / 'mlflow.db'}"
    return subprocess.run(
        ["python", "-I", "-c", code, *arguments],
        cwd=workspace.root.parent,
        env={**workspace.environment, "MLFLOW_TRACKING_URI": store, **variables},
        capture_output=True,
        text=True,
    )


def best(workspace: Workspace) -> str:
    with (workspace.root / "data" / "report" / "summary.csv").open() as file:
        (name,) = (row["name"] for row in csv.DictReader(file) if row["is_best"] == "True")
    return name


def test_a_file_of_rows_gets_the_evaluations_answers(inside: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run("generate", "--variant", NAME, "--file", "data/raw/test.jsonl", "--output", str(out))
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    expected = predictions(inside)
    assert [(a["id"], a["input"], a["prediction"]) for a in answers] == [
        (e["id"], e["input"], e["prediction"]) for e in expected
    ]


def test_an_argument_standard_input_and_a_row_are_the_same_input(inside: Workspace) -> None:
    row = predictions(inside)[0]
    data = json.loads((inside.root / "data" / "raw" / "test.jsonl").read_text().splitlines()[0])
    expected = row["prediction"] + "\n"
    assert run("generate", row["input"], "--variant", NAME) == expected
    assert run("generate", "--variant", NAME, text=row["input"] + "\n") == expected
    assert run("generate", "--row", json.dumps(data), "--variant", NAME) == expected


def test_the_best_is_the_one_that_the_summary_marks(inside: Workspace) -> None:
    row = predictions(inside, best(inside))[0]
    assert run("generate", row["input"]) == row["prediction"] + "\n"


def test_what_is_best_on_validation_is_best_everywhere(copy: Workspace) -> None:
    """The last on test, made the first on validation, is what every word `best` stands for."""
    folder = copy.root / "data" / "evaluate"
    measured = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("len*/metrics.json")
    }
    name = max(measured, key=lambda name: measured[name]["test"]["loss"])
    for other, metrics in measured.items():
        metrics["validation"]["loss"] = 1.0 if other == name else 2.0
        (folder / other / "metrics.json").write_text(json.dumps(metrics))
    assert name in copy.pipeline("report").stdout
    assert best(copy) == name
    report = copy.root / "data" / "report"
    assert f"# {name}\n" in (report / "best" / "README.md").read_text()
    assert (
        f"The best prefix is {name.replace('-seed0', '')}, with a test loss of"
        in (report / "report.md").read_text()
    )
    first = (report / "summary.md").read_text().splitlines()[2]
    assert first.split("|")[1].strip() == name
    mlflow = client(copy)
    aliased = mlflow.get_model_version_by_alias("tiny", "best")
    assert aliased.version == mlflow.get_model_version_by_alias("tiny", name).version
    row = predictions(copy, name)[0]
    assert copy.pipeline("generate", row["input"]).stdout == row["prediction"] + "\n"


def test_a_seed_is_one_that_torch_takes() -> None:
    result = CliRunner().invoke(main, ["generate", "x", "--seed", str(2**64)])
    assert result.exit_code == 2
    assert "--seed" in result.output


def test_sampling_is_seeded(inside: Workspace) -> None:
    def sampled(seed: str) -> str:
        options = ("--temperature", "5", "--max-new-tokens", "12")
        return run("generate", "size: 1 km", *options, "--seed", seed)

    assert sampled("1") == sampled("1")
    assert len({sampled(str(seed)) for seed in range(4)}) > 1


def test_what_is_streamed_is_the_answer(
    inside: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.config import load_params
    from pipeline.inference.generator import Decoding, generator_of
    from pipeline.inference.streaming import TerminalStreamer

    generator = generator_of(load_params(), NAME)
    for count in (1, 9):
        answer = generator(
            "size: 3 km", Decoding(count), streamer=TerminalStreamer(generator.tokenizer)
        )
        assert capsys.readouterr().out == answer + "\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x", "--variant", "len9-magic-seed0"), "'len9-magic-seed0' is no variant of params.yaml"),
        (("--file", "nowhere.txt"), "nowhere.txt: there is no such file"),
        (("--row", "{"), "INPUT: is no JSON"),
        (("--row", "{}", "--variant", NAME), "task.input_template: 'record' is undefined"),
        (("x", "--file", "params.yaml"), "give either INPUT or --file"),
        (("x", "--prefix", NAME, "--variant", NAME), "give either --variant or --prefix"),
        (("x", "--prefix", "a.safetensors"), "a.safetensors: there is no prefix there"),
        (("x", "--prefix", "len9-magic-seed0"), "'len9-magic-seed0' is no variant of params.yaml"),
    ],
)
def test_a_mistake_of_generate_is_a_sentence(
    inside: Workspace, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused("generate", *arguments)


def test_several_prefixes_answer_together(inside: Workspace) -> None:
    from pipeline.config import load_params
    from pipeline.inference.generator import Decoding, TextGenerator
    from pipeline.models.tokenizer import load_tokenizer

    row = predictions(inside)[0]
    asked = ("generate", row["input"], "--max-new-tokens", "12")
    assert run(*asked, "--prefix", NAME) == run(*asked, "--variant", NAME)
    other = "data/train/len2-random-seed0/prefix.safetensors"
    params, folder = load_params(), inside.root / "data" / "model"
    parts = [KVPrefix.load(f"data/train/{NAME}/prefix.safetensors"), KVPrefix.load(other)]
    together = PrefixModel.compose(AutoModelForCausalLM.from_pretrained(folder), parts)
    expected = TextGenerator(together, load_tokenizer(folder), params.task)
    answer = run(*asked, "--prefix", NAME, "--prefix", other)
    assert answer == expected(row["input"], Decoding(12)) + "\n"
    assert answer != run(*asked, "--prefix", NAME)


def test_prefixes_of_different_models_are_refused(inside: Workspace, tmp_path: Path) -> None:
    kv_prefix_from_tokens(tiny_model(num_hidden_layers=3), [5, 6]).save(tmp_path / "other")
    sentence = refused("generate", "x", "--prefix", NAME, "--prefix", str(tmp_path / "other"))
    assert re.search(f"{NAME} was made with .* different models", sentence)


@pytest.fixture(scope="module")
def exported(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    finished.pipeline("export", str(folder), "--variant", NAME)
    return folder


@pytest.mark.parametrize("block", [0, 1])
def test_the_cards_code_answers_without_this_project(
    finished: Workspace, exported: Path, block: int
) -> None:
    card = (exported / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[block]
    assert ("from peft" in code) == (block == 0)
    assert "pipeline" not in code
    code = code.replace('adapter = "."', f"adapter = {str(exported)!r}")
    # -I: the workspace, and with it this project, is not on the path.
    printed = finished.run("python", "-I", "-c", code).stdout
    assert printed == predictions(finished)[0]["prediction"] + "\n"


def test_the_card_states_data_params_and_metrics(finished: Workspace, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    metrics = json.loads((finished.root / "data" / "evaluate" / NAME / "metrics.json").read_text())
    assert "library_name: peft" in card
    assert f"{metrics['test']['loss']:.4f}" in card
    assert "no_prefix (baseline)" in card
    assert "learning_rate: 0.005" in card
    assert "| train | 12 |" in card


def test_the_report_exports_the_best(finished: Workspace, tmp_path: Path) -> None:
    finished.pipeline("export", str(tmp_path / "best"))
    folder = finished.root / "data" / "report" / "best"
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (folder / name).read_bytes() == (tmp_path / "best" / name).read_bytes()
    assert f"# {best(finished)}\n" in (folder / "README.md").read_text()


def test_export_replaces_its_own_and_nothing_else(inside: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    run("export", str(folder), "--variant", "len2-random-seed0", "--base-model", "org/name")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/name"
    run("export", str(folder), "--variant", NAME)
    assert f"# {NAME}\n" in (folder / "README.md").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert "holds other files" in refused("export", str(other), "--variant", NAME)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_an_imported_adapter_joins_the_comparison(copy: Workspace, exported: Path) -> None:
    path = copy.root / "params.yaml"
    path.write_text("# Mine.\n" + path.read_text().replace("report:", "# Of reports.\nreport:"))
    copy.pipeline("import", str(exported), "--name", "elsewhere")
    text = path.read_text()
    assert text.startswith("# Mine.\n")
    assert "# Of reports.\nreport:" in text
    assert copy.params["baselines"]["elsewhere"] == {
        "type": "adapter",
        "path": "adapters/elsewhere",
    }
    output = copy.run("dvc", "repro").stdout
    assert ran(output) == {"baselines@elsewhere", "inspect", "report"}
    measured = copy.root / "data" / "evaluate" / "elsewhere" / "metrics.json"
    trained = copy.root / "data" / "evaluate" / NAME / "metrics.json"
    assert json.loads(measured.read_text())["test"] == json.loads(trained.read_text())["test"]
    summary = (copy.root / "data" / "report" / "summary.csv").read_text()
    assert "\nelsewhere,variant,4,elsewhere," in summary
    row = predictions(copy)[0]
    answer = copy.pipeline("generate", row["input"], "--variant", "elsewhere").stdout
    assert answer == row["prediction"] + "\n"


@pytest.mark.parametrize("wrong", ["another model's", "of another kind", "a taken name"])
def test_an_adapter_that_cannot_join(
    inside: Workspace, exported: Path, tmp_path: Path, wrong: str
) -> None:
    before = (inside.root / "params.yaml").read_bytes()
    folder, name = tmp_path / "adapter", "other"
    if wrong == "another model's":
        other = tiny_model(num_hidden_layers=3)
        PrefixModel(other, PrefixConfig(num_virtual_tokens=3)).save_pretrained(folder)
        sentence = "it was made for another model"
    else:
        shutil.copytree(exported, folder)
        sentence = "'no_prefix' is taken under baselines"
    if wrong == "of another kind":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        sentence = "is a LORA adapter"
    if wrong == "a taken name":
        name = "no_prefix"
    assert sentence in refused("import", str(folder), "--name", name)
    assert (inside.root / "params.yaml").read_bytes() == before
    assert not (inside.root / "adapters").exists()


def test_the_mlflow_model_answers_as_generate_does(
    finished: Workspace,
) -> None:
    mlflow = client(finished)
    versions = mlflow.search_model_versions("name = 'tiny'")
    assert len(versions) == 4
    aliased = mlflow.get_model_version_by_alias("tiny", "best")
    named = mlflow.get_model_version_by_alias("tiny", best(finished))
    assert aliased.version == named.version
    # The frozen model is named, not copied.
    assert not list((finished.root / "mlruns").rglob("model.safetensors"))
    row = predictions(finished, best(finished))[0]
    code = (
        "import json, sys, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/tiny@best')\n"
        "text = sys.argv[1]\n"
        "print(json.dumps([model.predict([text]), model.predict([text], {'max_new_tokens': 1})]))\n"
    )
    # The model brings its code, and knows where the frozen model is.
    result = elsewhere(finished, code, row["input"])
    assert result.returncode == 0, result.stderr
    whole, first = json.loads(result.stdout.splitlines()[-1])
    assert whole == [row["prediction"]]
    assert row["prediction"].startswith(first[0])
    moved = str(finished.root.parent)
    result = elsewhere(finished, code, row["input"], FROZEN_MODEL=moved)
    assert "the frozen model of this prefix is not here" in result.stderr


def test_requests_beside_each_other_get_the_answers_of_each_alone(finished: Workspace) -> None:
    """Eight threads at the MLflow model, as `mlflow models serve` has them: greedy and seeded."""
    code = (
        "import sys, mlflow\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "model = mlflow.pyfunc.load_model('models:/tiny@best')\n"
        "kinds = [([sys.argv[1]], {'max_new_tokens': 3})] + [\n"
        "    ([text], {'max_new_tokens': 6, 'temperature': 9.0, 'seed': seed})\n"
        "    for seed, text in enumerate([sys.argv[1], 'size: 3 km'] * 3)\n"
        "]\n"
        "alone = [model.predict(*kind) for kind in kinds]\n"
        "assert len(set(map(str, alone))) > 4, alone\n"
        "sys.setswitchinterval(1e-5)\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    found = list(pool.map(lambda i: model.predict(*kinds[i % 7]), range(200)))\n"
        "print(sum(answer != alone[i % 7] for i, answer in enumerate(found)), 'differ')\n"
    )
    result = elsewhere(finished, code, predictions(finished)[0]["input"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "0 differ"


def test_one_mlflow_model_answers_with_every_prefix_of_its_registered_model(
    finished: Workspace,
) -> None:
    """By the alias that a request names, from eight threads at once."""
    names = [f"len{p}-{start}-seed0" for p in (2, 4) for start in ("random", "corpus")]
    code = (
        "import json, sys, mlflow\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "model = mlflow.pyfunc.load_model('models:/tiny@best')\n"
        "text, *names = sys.argv[1:]\n"
        "asked = lambda name: model.predict([text], {'prefix': name})[0]\n"
        "sys.setswitchinterval(1e-5)\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    found = list(pool.map(asked, names * 10))\n"
        "assert found == found[: len(names)] * 10\n"
        "assert asked('best') == asked('') == model.predict([text])[0]\n"
        "try:\n"
        "    asked('len9')\n"
        "except Exception as error:\n"
        "    refused = str(error)\n"
        "print(json.dumps([found[: len(names)], refused]))\n"
    )
    rows = {name: predictions(finished, name)[0] for name in names}
    result = elsewhere(finished, code, rows[names[0]]["input"], *names)
    assert result.returncode == 0, result.stderr
    answers, refused = json.loads(result.stdout.splitlines()[-1])
    assert answers == [rows[name]["prediction"] for name in names]
    assert "prefix: tiny has no version with the alias 'len9'" in refused


def test_a_version_says_which_engines_it_was_checked_with(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.config import load_params
    from pipeline.models.adapter import read_adapter
    from pipeline.tracking.checked_engines import record_check, record_evaluation
    from pipeline.tracking.runs import sha256

    monkeypatch.chdir(copy.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy.root / 'mlflow.db'}")
    record_check(load_params(), [NAME, "theirs"], "llama.cpp", "keys differ by 1e-6")
    known = client(copy)
    told = known.get_model_version_by_alias("tiny", NAME).description or ""
    assert "- llama.cpp: keys differ by 1e-6\n- transformers: the evaluation of its run" in told

    def with_llama_cpp() -> list[str]:
        versions = known.search_model_versions("name = 'tiny'")
        return [v.version for v in versions if "llama.cpp" in (v.description or "")]

    (checked,) = with_llama_cpp()

    # What a person wrote stays, around the text of ours and in its place.
    ours = known.get_model_version("tiny", checked).description or ""
    known.update_model_version("tiny", checked, f"For the shop.\n\n{ours}\n- Ask Ada.")
    record_check(load_params(), [NAME], "llama.cpp", "keys differ\nby 2e-6")
    text = known.get_model_version("tiny", checked).description or ""
    assert text == f"For the shop.\n\n{ours.replace('by 1e-6', 'by 2e-6')}\n- Ask Ada."
    known.update_model_version("tiny", checked, "For the shop.")
    record_check(load_params(), [NAME], "llama.cpp", "keys differ by 3e-6")
    version = known.get_model_version("tiny", checked)
    assert version.description == "For the shop."
    assert version.tags["checked.llama.cpp"] == "keys differ by 3e-6"

    # The alias moves on to another prefix, of which nothing was found.
    other = known.get_model_version_by_alias("tiny", "len2-random-seed0").version
    known.set_registered_model_alias("tiny", NAME, other)
    known.update_model_version("tiny", checked, ours)
    record_check(load_params(), [NAME], "llama.cpp", "keys differ by 4e-6")
    assert with_llama_cpp() == [checked]
    # Trained again, it is no version yet.
    kv = KVPrefix.load(f"data/train/{NAME}/prefix.safetensors")
    kv.beginning_text(not kv.begins_text).save(f"data/train/{NAME}/prefix.safetensors")
    record_check(load_params(), [NAME], "vllm", "the same text")
    assert not any("vllm" in (v.description or "") for v in known.search_model_versions())

    # An imported adapter is known by the prefix that it was registered as.
    PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=2)).save_pretrained("theirs")
    read_adapter(Path("theirs")).save("theirs.safetensors")
    record_evaluation(known, "tiny", other, sha256(Path("theirs.safetensors")))
    adapters = params_of(baselines={"theirs": {"type": "adapter", "path": "theirs"}})
    record_check(adapters, ["theirs"], "vllm", "the same text")
    assert "- vllm: the same text" in (known.get_model_version("tiny", other).description or "")


def test_a_store_that_is_none_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.tracking.checked_engines import record_check

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")
    record_check(params_of(), [NAME], "llama.cpp", "keys differ by 1e-6")
    told = capsys.readouterr().err
    assert told.startswith("warning: MLflow could not be told what was checked with llama.cpp (")


def test_greedy_choices_are_the_frozen_models_own(model: Any, tokenizer: Any) -> None:
    """Settings of the model's that change what is likely do not change the answer."""
    from pipeline.config.task import TaskParams
    from pipeline.inference.generator import Decoding, TextGenerator

    task = TaskParams(input_template="{{ x }}", target_template="{{ y }}")
    torch.manual_seed(0)
    prefixed = PrefixModel(model, PrefixConfig(num_virtual_tokens=3))
    generator = TextGenerator(prefixed, tokenizer, task)
    expected = generator("size: 3 km", Decoding(8))
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0)
    assert generator("size: 3 km", Decoding(8)) == expected


@pytest.mark.parametrize("stage", ["inspect", "report"])
def test_a_stage_typed_before_its_time_names_the_one_to_run(
    workspace: Workspace, stage: str
) -> None:
    """No stage has run, and no folder of theirs is there."""
    result = workspace.pipeline(stage, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: data/")
    assert "`dvc repro" in line


def test_answers_to_a_file_go_on_where_they_were_stopped(
    inside: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.inference.continuations import Batch

    out = tmp_path / "answers.jsonl"
    command = ("generate", "--variant", NAME, "--file", "data/raw/test.jsonl", "--output", str(out))
    begin, begun = Batch.begin, list[int]()

    def counted(batch: Any, joining: Any) -> None:
        begun.append(len(joining))
        if sum(begun) > 3:
            raise KeyboardInterrupt
        begin(batch, joining)

    monkeypatch.setattr(Batch, "begin", counted)
    assert "stopped" in refused(*command, "--together", "2")
    kept = tmp_path / "answers.jsonl.unfinished"
    assert not out.exists()
    finished = len(kept.read_text().splitlines()) - 1
    assert 0 < finished < 4
    # As a machine that lost its power may leave it.
    kept.write_text(kept.read_text() + '{"input": "half a li')
    begun.clear()

    def noted(batch: Any, joining: Any) -> None:
        begun.append(len(joining))
        begin(batch, joining)

    monkeypatch.setattr(Batch, "begin", noted)
    result = CliRunner().invoke(main, [*command, "--together", "2"])
    assert f"goes on after {finished} answers" in result.stderr
    assert sum(begun) == 5 - finished
    assert not kept.exists()
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [a["prediction"] for a in answers] == [r["prediction"] for r in predictions(inside)]
    # Lines of other settings are not gone on with.
    kept.write_text('{"made_with": "otherwise"}\n{"input": "x", "prediction": "y"}\n')
    run(*command)
    assert [json.loads(line) for line in out.read_text().splitlines()] == answers


def test_answers_to_a_file_are_of_one_system_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put around an input is no part of it, and changes the answer."""
    from pipeline.config.task import TaskParams
    from pipeline.inference import answering
    from pipeline.inference.decoding import Decoding
    from pipeline.inference.generator import TextGenerator
    from pipeline.prefix import PrefixConfig, PrefixModel

    model = tiny_model()
    templates: dict[str, Any] = {"input_template": "{{ x }}", "target_template": "{{ y }}"}
    prefixed = PrefixModel(model, PrefixConfig(num_virtual_tokens=3))
    out = tmp_path / "answers.jsonl"
    monkeypatch.setattr(answering.UnfinishedLines, "remove", lambda _: None)
    kept = {}
    for words in ("Be short.", "Be long."):
        task = TaskParams(**templates, use_chat_template=True, system_prompt=words)
        generator = TextGenerator(prefixed, tiny_tokenizer(), task)
        answering.answer_lines(generator, ["size: 3 km"], Decoding(4), out, 512)
        kept[words] = (tmp_path / "answers.jsonl.unfinished").read_text().splitlines()
    heads = {lines[0] for lines in kept.values()}
    assert len(heads) == 2
    assert all(len(lines) == 2 for lines in kept.values())
