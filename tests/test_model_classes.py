"""A checkpoint is loaded by the class that knows it, or refused before its bytes are written."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline.config.model import LocalModel
from pipeline.config.task import TaskParams
from pipeline.data.task_type import TaskType
from pipeline.errors import PipelineError
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.models.for_task import load_for_task
from pipeline.models.frozen import load_frozen_model
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import kv_prefix_from_tokens
from pipeline.schema.compute import Compute
from pipeline.sources.model import fetch_model
from tests.conftest import tiny_model, tiny_tokenizer
from tests.prefix import multimodal
from tests.prefix.test_multimodal import REFUSED


def saved(model: Any, folder: Path) -> LocalModel:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return LocalModel(source="local", path=str(folder), dtype="float32")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "gemma3"])
def test_a_multimodal_checkpoint_is_used_for_text(tmp_path: Path, name: str) -> None:
    """Also one that AutoModelForCausalLM does not load; its weights are those of the checkpoint."""
    source = multimodal.build(name)
    folder = tmp_path / "model"
    fetch_model(saved(source, tmp_path / "saved"), folder)
    model = load_frozen_model(folder, Compute(device="cpu", dtype="float32"))
    assert type(model) is type(source)
    ids = torch.arange(40, 46)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, source(input_ids=ids).logits)
    tuned = prefixed_model(model, kv_prefix_from_tokens(model, [20, 21, 22]))
    task = TaskParams(input_template="{{ x }}", target_template="{{ y }}")
    generator = TextGenerator(tuned, load_tokenizer(folder), task)
    assert isinstance(generator("!", Decoding(2)), str)


def test_a_prefix_of_the_text_model_is_the_whole_s(tmp_path: Path) -> None:
    """Llama 4's text is a class of its own; images come with the whole."""
    text = {**multimodal.TEXT, "intermediate_size_mlp": 48, "num_local_experts": 2}
    vision = {**multimodal.LARGE, "intermediate_size": 128, "vision_output_dim": 32}
    vision |= {"patch_size": 4, "projector_input_dim": 32, "projector_output_dim": 32}
    config = transformers.Llama4Config(text_config=text, vision_config=vision)
    whole = transformers.Llama4ForConditionalGeneration(config).eval()
    fetch_model(saved(whole, tmp_path / "saved"), tmp_path / "model")
    model = load_frozen_model(tmp_path / "model", Compute(device="cpu", dtype="float32"))
    assert isinstance(model, transformers.Llama4ForCausalLM)
    kv, ids = kv_prefix_from_tokens(model, [20, 21, 22]), torch.arange(40, 46)[None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        found = [prefixed_model(part, kv)(input_ids=ids).logits for part in (model, whole)]
    torch.testing.assert_close(*found)


def test_weights_that_the_text_s_class_does_not_find(tmp_path: Path) -> None:
    """Emu3's are in the whole model alone; a model that lacks its head is refused."""
    text = {**multimodal.TEXT, "vocab_size": 260}
    vision: dict[str, Any] = {"codebook_size": 8, "embed_dim": 4, "z_channels": 4}
    vision |= {"base_channels": 32, "channel_multiplier": [1, 1]}
    vision |= {"num_res_blocks": 1, "attn_resolutions": []}
    names = {"<image>": 250, "<|extra_200|>": 249, "<|visual token 000000|>": 248}
    config = transformers.Emu3Config(text_config=text, vq_config=vision, vocabulary_map=names)
    source = transformers.Emu3ForConditionalGeneration(config).eval()
    fetch_model(saved(source, tmp_path / "saved"), tmp_path / "model")
    model = load_frozen_model(tmp_path / "model", Compute(device="cpu", dtype="float32"))
    assert type(model) is type(source)
    ids = torch.arange(40, 46)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, source(input_ids=ids).logits)

    headless = tiny_model().model
    fetch_model(saved(headless, tmp_path / "headless"), tmp_path / "base")
    with pytest.raises(PipelineError, match=r"no weights for lm_head\.weight, which task"):
        load_frozen_model(tmp_path / "base", Compute(device="cpu"))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("speech", "a WhisperForConditionalGeneration, which reads input_features, not text"),
        ("images", "a ViTForImageClassification, which reads pixel_values, not text"),
        ("both at once", "a CLIPModel, which has a head for no task here"),
    ],
)
def test_what_reads_no_text_is_refused_at_fetch(tmp_path: Path, kind: str, sentence: str) -> None:
    params = saved(REFUSED[kind][0](), tmp_path / "saved")
    with pytest.raises(PipelineError, match=sentence):
        fetch_model(params, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_without_the_tasks_class_names_the_tasks_it_has(tmp_path: Path) -> None:
    saved(multimodal.build("qwen2_5_vl"), tmp_path)
    sentence = "has no model of type 'qwen2_5_vl' for seq_cls; use causal_lm, or another model"
    with pytest.raises(PipelineError, match=sentence):
        load_for_task(tmp_path, Compute(device="cpu"), TaskType("seq_cls", ("a", "b")))
    config = transformers.BartConfig(**{**multimodal.TEXT, "d_model": 32})
    config.save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match=r"for token_cls; use causal_lm or seq2seq_lm or seq"):
        load_for_task(tmp_path, Compute(device="cpu"), TaskType("token_cls", ("a", "b")))
