"""The whole graph on a model with recurrent layers: states from a text, trained and measured."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens
from pipeline.storage.records import read_csv, read_json
from tests.conftest import make_workspace, sweep_of, tiny_tokenizer
from tests.graph_here import run_graph, succeed
from tests.hybrids import qwen3_next

pytestmark = pytest.mark.real


def test_the_whole_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen3_next()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    workspace = make_workspace(tmp_path / "workspace", tmp_path / "model")
    workspace.edit(
        lambda params: params.update(
            sweep={**sweep_of([4], ["corpus"]), "in_context": ["corpus"]},
            initializations={"corpus": params["initializations"]["corpus"]},
            train={**params["train"], "learning_rate": 5e-2},
        )
    )
    in_context = "in_context --length 4 --initialization corpus"
    run_graph(workspace, monkeypatch, 4, "corpus", in_context)
    data, name = workspace.root / "data", "len4-corpus-seed0"
    # The text's tokens are kept, of which the length has read its own.
    assert not (data / "kv_prefix" / "corpus" / "prefix.safetensors").exists()
    tokens = read_json(data / "kv_prefix" / "corpus" / "tokens.json")["tokens"]
    assert len(tokens) == 16
    start = kv_prefix_from_tokens(model, tokens[:4])
    kv = KVPrefix.load(data / "train" / name / "prefix.safetensors")
    assert list(kv.states) == list(start.states)
    # Inputs are long beside what the last layer remembers: its state is as it started.
    for state in ("0.conv", "0.recurrent"):
        first = start.states[state]
        way = (kv.states[state] - first).norm() / first.norm()
        assert 1e-3 < float(way) < 0.5
    trained = read_json(data / "train" / name / "metrics.json")
    assert trained["validation/best_loss"] < trained["validation/initial_loss"]
    # What it starts from is what the text in the context is.
    context = read_json(data / "evaluate" / "in_context_corpus-len4" / "metrics.json")
    assert trained["validation/initial_loss"] == pytest.approx(
        context["validation"]["loss"], rel=1e-5
    )
    measured = read_json(data / "evaluate" / name / "metrics.json")
    assert measured["cache_bytes"] == 4 * sum(
        tensor.numel() for tensor in (*kv.keys, *kv.values, *kv.states.values())
    )
    moved = read_csv(data / "inspection" / "best" / "movement.csv")
    assert {"key", "value", "conv", "recurrent"} == set(moved["tensor"])
    assert "it has no PEFT adapter" in (data / "report" / "best" / "README.md").read_text()
    refused = CliRunner().invoke(main, ["export", "adapter"])
    assert isinstance(refused.exception, SystemExit)
    assert refused.exit_code == 1
    assert "state" in refused.stderr
    succeed("generate", "size: 3 km")
