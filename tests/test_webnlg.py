"""The second task: WebNLG, through its example params file alone."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config import load_params
from pipeline.config.compose import compose
from pipeline.stages import evaluate, fetch_data, fetch_model, kv_prefix, tokenize, train
from pipeline.storage.records import read_json, read_jsonl
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from tests.conftest import ROOT

pytestmark = pytest.mark.real

DATA = Path(os.environ.get("WEBNLG_FOLDER", ROOT.parent / "shared" / "data" / "webnlg2017"))


@pytest.mark.skipif(
    not DATA.is_dir(),
    reason="WebNLG may not be distributed with this repository; WEBNLG_FOLDER names a copy",
)
def test_webnlg_runs_by_its_params_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    compose(ROOT / "examples" / "webnlg.yaml")
    yaml = YAML(typ="safe")
    params: dict[str, Any] = yaml.load(Path("params.yaml").read_text())
    files = params["data"]["files"]
    params["data"]["path"] = str(DATA)
    params["data"]["files"] = {split: str(DATA / Path(path).name) for split, path in files.items()}
    # A tiny model with a token a byte in place of SmolLM2, and few examples.
    params["model"] = {"source": "local", "path": str(model_folder), "dtype": "float32"}
    params["data"]["max_examples"] = dict.fromkeys(files, 6)
    params["task"].update(max_length=480, too_long="drop")
    params["train"].update(max_steps=2, epochs=None, eval_every_steps=None)
    params["evaluate"]["max_new_tokens"] = 4
    params["sweep"]["lengths"] = [8]
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    loaded = load_params()
    fetch_model.run(loaded)
    fetch_data.run(loaded)
    tokenize.run(loaded)
    variant = Variant(8, "demonstrations", 0)
    kv_prefix.run(loaded, variant.initialization)
    train.run(loaded, variant)
    evaluate.run(loaded, variant)
    rows = read_jsonl(paths.EVALUATE / variant.name / "predictions.jsonl")
    assert {row["split"] for row in rows} == {"validation", "test", "test_unseen"}
    assert any(len(row["references"]) > 1 for row in rows)
    metrics = read_json(paths.EVALUATE / variant.name / "metrics.json")
    assert metrics["test_unseen"]["loss"] > 0
    shutil.rmtree(tmp_path / "data")
