"""A quantized frozen model keeps the laws: identity, frozen weights, gradients on every path."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from pipeline.baselines.full_fine_tuning import FullFineTuning
from pipeline.baselines.lora import Lora
from pipeline.config.model import LocalModel
from pipeline.config.train import TrainParams
from pipeline.data.rows import TokenizedRows
from pipeline.data.task_type import TaskType
from pipeline.errors import PipelineError
from pipeline.loss.causal import TargetLoss
from pipeline.models.for_task import load_for_task
from pipeline.models.frozen import load_frozen_model
from pipeline.models.pretrained import PretrainedFolder
from pipeline.models.quantization import FILE, is_quantized, read_quantization
from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.packed.running import Beginning, RunningRows, Stem
from pipeline.schema.compute import Compute
from pipeline.sources.model import fetch_model
from pipeline.training.compilation import compile_where_it_pays
from tests.conftest import tiny_model, tiny_tokenizer

EXACT = Compute(device="cpu", dtype="float32")
TEXT, IDS = list(range(10, 18)), torch.arange(20, 34)[None]
SCHEMES: dict[str, dict[str, Any]] = {
    "bitsandbytes 8": {"library": "bitsandbytes", "bits": 8},
    "bitsandbytes nf4": {"library": "bitsandbytes", "bits": 4},
    "bitsandbytes fp4, twice": {
        **{"library": "bitsandbytes", "bits": 4},
        **{"quant_type": "fp4", "double_quant": True},
    },
    "torchao 8": {"library": "torchao", "bits": 8},
    "torchao 4": {"library": "torchao", "bits": 4, "group_size": 16},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_model(hidden_size=64, intermediate_size=96).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=SCHEMES)
def folder(request: pytest.FixtureRequest, whole: Path, tmp_path: Path) -> Path:
    """A model as `fetch_model` leaves it."""
    return quantized(whole, tmp_path / "model", SCHEMES[request.param])


def quantized(whole: Path, to: Path, scheme: dict[str, Any]) -> Path:
    section = {"source": "local", "path": str(whole), "dtype": "float32", "quantization": scheme}
    fetch_model(LocalModel.model_validate(section), to)
    return to


def bits(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copies of all that is kept, scales included."""
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        kept |= {f"{name}{part}": t.clone() for part, t in _inner(tensor)}
    return kept


def _inner(tensor: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        yield "", tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield name, getattr(tensor, name)


def test_the_laws_hold(folder: Path) -> None:
    model = load_frozen_model(folder, EXACT)
    assert is_quantized(model)
    before = bits(model)
    prefixed = PrefixModel(model, PrefixConfig(len(TEXT)))
    prefixed.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
    prefixed.train()
    assert prefixed.why_not_packed(tokens=14) is None
    whole = torch.cat([torch.tensor([TEXT]), IDS], dim=1)
    optimizer = torch.optim.SGD(prefixed.encoder.parameters(), lr=1e-3)

    def gradient(logits: torch.Tensor) -> torch.Tensor:
        prefixed.zero_grad()
        logits.pow(2).sum().backward()
        (parameter,) = prefixed.encoder.parameters()
        assert parameter.grad is not None
        return parameter.grad.clone()

    def packed() -> torch.Tensor:
        return prefixed.packed_logits(IDS[0], [IDS.shape[1]], torch.arange(IDS.shape[1]))

    # A validation first: what it leaves behind must not stop the gradients.
    with torch.no_grad():
        after_prefix = prefixed(input_ids=IDS).logits
        after_text = model(input_ids=whole).logits[:, len(TEXT) :]
        torch.testing.assert_close(after_prefix, after_text, atol=1e-4, rtol=0)
        torch.testing.assert_close(packed(), after_text[0], atol=1e-4, rtol=0)
    padded = gradient(prefixed(input_ids=IDS).logits)
    assert float(padded.abs().sum()) > 0
    found = {"packed": gradient(packed())}
    prefixed.gradient_checkpointing_enable()
    found |= {"padded, recomputed": gradient(prefixed(input_ids=IDS).logits)}
    found |= {"packed, recomputed": gradient(packed())}
    prefixed.gradient_checkpointing_disable()
    for name, other in found.items():
        assert float((other - padded).norm() / padded.norm()) <= 1e-5, name
    optimizer.step()
    prefixed.eval()
    text = prefixed.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
    assert text.shape == (1, 17)
    after = bits(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_linear_layers_are_kept_in_fewer_bytes_and_lose_little(folder: Path, whole: Path) -> None:
    from benchmarks.quantized import stored_bytes

    model, exact = load_frozen_model(folder, EXACT), load_frozen_model(whole, EXACT)
    layer, as_it_was = model.model.layers[0].mlp.up_proj, exact.model.layers[0].mlp.up_proj
    assert stored_bytes(layer) < 0.6 * stored_bytes(as_it_was)
    with torch.no_grad():
        logits, wanted = (each(input_ids=IDS).logits for each in (model, exact))
    error = float((logits - wanted).norm() / wanted.norm())
    scheme = read_quantization(folder)
    assert scheme is not None
    assert 0 < error < (0.02 if scheme.bits == 8 else 0.25)


@torch.inference_mode()
def test_a_token_is_decoded_as_it_is_read(folder: Path) -> None:
    """What is quantized has no numbers where a weight's address says."""
    model = load_frozen_model(folder, EXACT)
    rows = RunningRows(model)
    rows.join([Beginning(Stem(None), [5, 9, 30], 4)])
    expected = model(torch.tensor([[5, 9, 30, 7]])).logits[0, -1:]
    torch.testing.assert_close(rows.step([7]), expected, rtol=1e-4, atol=1e-4)


def test_a_prefix_says_which_quantized_model_it_is_of(whole: Path, tmp_path: Path) -> None:
    made: dict[str, set[str]] = {}
    for name in ("bitsandbytes nf4", "torchao 8"):
        folder = quantized(whole, tmp_path / name, SCHEMES[name])
        for dtype in ("float32", "bfloat16"):
            model = load_frozen_model(folder, Compute(device="cpu", dtype=dtype))
            kv = kv_prefix_from_tokens(model, TEXT)
            made.setdefault(name, set()).add(kv.metadata["config_sha256"])
    # What it computes in is no other model.
    assert [len(hashes) for hashes in made.values()] == [1, 1]
    assert made["bitsandbytes nf4"] != made["torchao 8"]


@pytest.mark.parametrize("name", ["bitsandbytes 8", "bitsandbytes nf4", "torchao 8", "torchao 4"])
def test_a_model_that_is_quantized_already_is_taken_as_it_is(
    name: str, whole: Path, tmp_path: Path
) -> None:
    model = load_frozen_model(quantized(whole, tmp_path / "first", SCHEMES[name]), EXACT)
    already, fetched = tmp_path / "already", tmp_path / "fetched"
    model.save_pretrained(already, save_original_format=False)
    tiny_tokenizer().save_pretrained(already)
    section: dict[str, Any] = {"source": "local", "path": str(already), "dtype": "float32"}
    fetch_model(LocalModel.model_validate(section), fetched)
    again = load_frozen_model(fetched, EXACT)
    assert is_quantized(again)
    assert not (fetched / FILE).exists()
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    # A PEFT adapter of one is that of the other.
    PrefixModel(again, PrefixConfig(3)).save_pretrained(tmp_path / "adapter")
    assert PrefixModel.from_pretrained(model, tmp_path / "adapter").prefix_length == 3
    twice = LocalModel.model_validate({**section, "quantization": SCHEMES["torchao 8"]})
    with pytest.raises(PipelineError, match="are quantized already; set it to null"):
        fetch_model(twice, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_head_of_a_quantized_classifier_is_trained_whole(folder: Path) -> None:
    model, new = load_for_task(folder, EXACT, TaskType("seq_cls", ("a", "b")))
    prefixed = PrefixModel(model, PrefixConfig(3, modules_to_save=new)).train()
    prefixed(input_ids=IDS, labels=torch.tensor([1])).loss.backward()
    assert new == ("score",)
    assert prefixed.heads.copies[0].weight.grad is not None
    with pytest.raises(PrefixError, match="weights are quantized and cannot be trained"):
        PrefixModel(model, PrefixConfig(3, modules_to_save=("model.layers.0.mlp.up_proj",)))


def test_lora_adapts_a_quantized_model(folder: Path, tmp_path: Path) -> None:
    pretrained, lora = PretrainedFolder(folder, EXACT), Lora(type="lora")
    model = lora.adaptable(pretrained)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.dtype == torch.float32 for p in trained)
    lora.save(model, tmp_path / "adapter", pretrained)
    again = lora.load(tmp_path / "adapter", pretrained)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_what_cannot_be_done_is_one_sentence(whole: Path, tmp_path: Path) -> None:
    scheme = SCHEMES["torchao 8"]
    folder = quantized(whole, tmp_path / "model", scheme)
    with pytest.raises(PipelineError, match="trains every weight, and quantized ones cannot"):
        FullFineTuning(type="full_fine_tuning").adaptable(PretrainedFolder(folder, EXACT))
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(PipelineError, match=r"pip install '\.\[torchao\]'"),
    ):
        load_frozen_model(folder, EXACT)
    long = TrainParams(compile=True, epochs=None, max_steps=600)
    rows = TokenizedRows(Dataset.from_list([{"input_ids": [5, 6, 7], "target_start": 1}]))
    loss_of = TargetLoss(PrefixModel(load_frozen_model(folder, EXACT), PrefixConfig(3)))
    with pytest.raises(PipelineError, match=r"train\.compile: quantized layers are not compiled"):
        compile_where_it_pays(loss_of, long, 600, rows)
    (folder / FILE).write_text(json.dumps({**scheme, "bits": 4, "group_size": 40}))
    with pytest.raises(PipelineError, match="torchao cannot quantize this model to 4 bits so"):
        load_frozen_model(folder, EXACT)
    (folder / FILE).write_text(json.dumps({"library": "magic"}))
    with pytest.raises(PipelineError, match="names no quantization; run `dvc repro --force"):
        load_frozen_model(folder, EXACT)
    split = shutil.copytree(whole, tmp_path / "split")
    places: dict[str, int | str] = {
        "model.embed_tokens": "cpu",
        "model.layers": "disk",
        "model.norm": "cpu",
    }
    spread = {**places, "model.rotary_emb": "cpu", "lm_head": "cpu"}
    with pytest.raises(PipelineError, match="weights wait in memory or on disk cannot be adapted"):
        PretrainedFolder(split, EXACT, spread).load()
    with pytest.raises(PipelineError, match=r"model\.device_map: transformers cannot place"):
        load_frozen_model(split, Compute(), places)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"": "cuda:99"}, "puts '' on cuda:99, which is not here"),
        ({"model": "cpu", "lm_head": 99}, "puts 'lm_head' on 99, which is not here"),
        ({"model.embed_tokens": "cpu", "lm_haed": "cpu"}, "says no place for 'model.layers.0."),
    ],
)
def test_a_place_that_there_is_not_is_one_sentence(
    places: dict[str, int | str], said: str, whole: Path
) -> None:
    with pytest.raises(PipelineError, match=rf"^model\.device_map: {said}"):
        load_frozen_model(whole, EXACT, places)
    with pytest.raises(PipelineError, match="device: 'cuda:99' is not available here"):
        load_frozen_model(whole, Compute(device="cuda:99"))


def test_a_quantized_model_that_would_wait_on_disk_is_refused(whole: Path, tmp_path: Path) -> None:
    """It is the place that does not serve, and not the library."""
    folder = quantized(whole, tmp_path / "model", SCHEMES["bitsandbytes nf4"])
    with pytest.raises(PipelineError, match=r"^model\.device_map: bitsandbytes cannot quantize"):
        load_frozen_model(folder, EXACT, {"model": "cpu", "lm_head": "disk"})
