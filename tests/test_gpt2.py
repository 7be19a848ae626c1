"""GPT-2, the model of the prefix-tuning paper, as its configuration comes: with dropout."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.storage.records import read_json
from tests.conftest import make_workspace, sweep_of, tiny_tokenizer
from tests.graph_here import run_graph

pytestmark = pytest.mark.real


def test_the_whole_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention would drop weights, which packed rows do not: training has it off."""
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    config = GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=2, **tokens)
    assert config.attn_pdrop == config.resid_pdrop == config.embd_pdrop == 0.1
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    workspace = make_workspace(tmp_path / "workspace", tmp_path / "gpt2")
    workspace.edit(
        lambda params: params.update(
            sweep=sweep_of([2], ["random"]),
            initializations={"random": params["initializations"]["random"]},
            train={**params["train"], "gradient_checkpointing": True},
        )
    )
    run_graph(workspace, monkeypatch, 2, "random", reports=False)
    for name in ("len2-random-seed0", "no_prefix"):
        measured = read_json(workspace.root / "data" / "evaluate" / name / "metrics.json")
        assert 0 < measured["test"]["loss"] < 10
    trained = read_json(workspace.root / "data" / "train" / "len2-random-seed0" / "metrics.json")
    assert trained["validation/best_loss"] < trained["validation/initial_loss"]
