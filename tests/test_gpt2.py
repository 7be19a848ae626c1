"""GPT-2, the model of the prefix-tuning paper, as its configuration comes: with dropout."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.storage.records import read_json
from pipeline.workspace import paths
from tests.conftest import make_workspace, sweep_of, tiny_tokenizer
from tests.graph_here import run_graph, succeed

pytestmark = pytest.mark.real

VARIANT = "len2-random-seed0"


def test_a_variants_stages_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    losses = {}
    for name in (VARIANT, "no_prefix"):
        losses[name] = read_json(paths.EVALUATE / name / "metrics.json")["test"]["loss"]
        assert 0 < losses[name] < 10
    trained = read_json(paths.TRAIN / VARIANT / "metrics.json")
    assert trained["validation/best_loss"] < trained["validation/initial_loss"]
    succeed("export", "adapter", "--variant", VARIANT)
    config = read_json(Path("adapter", "adapter_config.json"))
    assert (config["num_virtual_tokens"], config["num_layers"]) == (2, 2)
    card = Path("adapter", "README.md").read_text()
    assert f"# {VARIANT}\n" in card
    assert f"{losses[VARIANT]:.4f}" in card
