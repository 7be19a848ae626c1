"""Modules that params name and the model has not are told before any work, without its weights."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, GPT2Config, MixtralConfig, PreTrainedConfig

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models.without_weights import models_without_weights
from pipeline.preflight.modules import check_modules
from tests.conftest import tiny_model, tiny_params


def params_with(folder: Path, saved: list[str] | None = None, **targets: list[str]) -> Params:
    """Params that name modules to save, and for each baseline those that LoRA stands beside."""
    raw = tiny_params(folder)
    raw["prefix"]["modules_to_save"] = saved
    for name, names in targets.items():
        raw["trained_baselines"][name] = {"type": "lora", "target_modules": names}
    if "both" in targets:
        start: dict[str, Any] = {"initialization": "random", "length": 2}
        raw["trained_baselines"]["both"] |= {"type": "prefix_and_lora", **start}
    return Params.model_validate(raw)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configuration of a tiny Llama, and no weights."""
    tiny_model().config.save_pretrained(tmp_path)
    return tmp_path


LINEAR = "its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, "


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (
            {"lora": ["q_proj", "v_prj"]},
            "trained_baselines.lora.target_modules: names 'v_prj', as no module of this model is "
            f"called; {LINEAR}lm_head",
        ),
        (
            {"lora": ["q_proj", "input_layernorm"]},
            "trained_baselines.lora.target_modules: PEFT refuses ['q_proj', 'input_layernorm'] for "
            "this model (Target module LlamaRMSNorm(",
        ),
        # A whole part of a name, as PEFT has it.
        ({"both": ["proj"]}, "trained_baselines.both.target_modules: names 'proj', as no module"),
        (
            {"saved": ["lm_head", "head"]},
            "prefix.modules_to_save: names 'head', which is no module of this model; its own are "
            "model, lm_head, and those inside them, as model.layers.0.self_attn.q_proj",
        ),
    ],
)
def test_a_name_of_no_module_is_told(folder: Path, named: dict[str, Any], expected: str) -> None:
    with pytest.raises(PipelineError, match=f"^{re.escape(expected)}"):
        check_modules(params_with(folder, **named), folder)


def test_names_that_fit_pass(folder: Path) -> None:
    saved = ["lm_head", "model.layers.0.mlp"]
    params = params_with(folder, saved, lora=["q_proj", "self_attn.v_proj", "lm_head"])
    check_modules(params, folder)


@pytest.mark.parametrize("names", [["w2"], ["w1", "w3"], ["q_proj", "w1", "w2", "w3"], ["gate"]])
def test_names_that_peft_knows_of_older_releases_pass(names: list[str], tmp_path: Path) -> None:
    """Mixtral's experts were modules, and are parameters now; PEFT takes either by those names."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    MixtralConfig(**sizes, num_attention_heads=2, num_local_experts=2).save_pretrained(tmp_path)
    check_modules(params_with(tmp_path, lora=names), tmp_path)
    with pytest.raises(PipelineError, match="names 'w4', as no module of this model is called"):
        check_modules(params_with(tmp_path, lora=[*names, "w4"]), tmp_path)


@pytest.mark.parametrize(
    ("config", "task", "linear"),
    [
        (GPT2Config(n_layer=1, n_embd=8, n_head=2), "causal_lm", "transformer.h.0.attn.c_attn"),
        (BertConfig(num_hidden_layers=1), "seq_cls", "classifier"),
    ],
)
def test_modules_are_those_of_the_task(
    config: PreTrainedConfig, task: str, linear: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    (model,) = models_without_weights(tmp_path, task)
    assert type(model.get_submodule(linear)).__name__ in ("Conv1D", "Linear")


def test_what_is_no_model_is_told_by_who_loads_it(folder: Path, tmp_path: Path) -> None:
    params = params_with(folder, ["head"], lora=["q"])
    check_modules(params, tmp_path / "nothing")
    # A decoder for a task of encoder-decoders.
    assert models_without_weights(folder, "seq2seq_lm") == []
