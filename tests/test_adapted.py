"""LoRA, full fine-tuning and training subsets, on a tiny model."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines.full_fine_tuning import FullFineTuning
from pipeline.baselines.lora import Lora
from pipeline.baselines.trained import TrainedBaseline
from pipeline.config.train import TrainParams
from pipeline.data.subset import subset
from pipeline.errors import PipelineError
from pipeline.models.pretrained import PretrainedFolder
from pipeline.prefix import PrefixModel
from pipeline.schema.compute import Compute
from pipeline.training.loop import train_prefix
from pipeline.training.results import stored_bytes
from pipeline.training.trained import TrainedWeights
from tests.conftest import tiny_model, tiny_tokenizer
from tests.test_measuring import examples

LORA = Lora(type="lora", rank=2, learning_rate=0.02)
FULL = FullFineTuning(type="full_fine_tuning", learning_rate=0.01)
COMPUTE = Compute(device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model stored in bfloat16, as the pipeline stores models by default."""
    folder = tmp_path_factory.mktemp("pretrained")
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def trained(
    pretrained: Path,
    baseline: TrainedBaseline,
    folder: Path,
    compute: Compute = COMPUTE,
    **train: Any,
) -> Any:
    """Train a few steps, save to `folder`; returns the model and the losses."""
    torch.manual_seed(0)
    found = PretrainedFolder(pretrained, compute)
    model = baseline.adaptable(found)
    settings = {"epochs": None, "max_steps": 6, "batch_size": 4, "eval_every_steps": 3, **train}
    data = Dataset.from_list(examples())
    params = baseline.training(TrainParams(**settings))
    prefix_model = PrefixModel(model)
    result = train_prefix(prefix_model, data, data, params, 0, lambda step, metrics: None)
    assert isinstance(result.prefix, TrainedWeights)
    result.prefix.restore(prefix_model)
    baseline.save(model, folder, found)
    return model.eval(), result


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits.float()
    return found


@pytest.mark.parametrize("baseline", [LORA, FULL], ids=["lora", "full"])
def test_training_lowers_the_loss_and_what_is_stored_gives_it_back(
    pretrained: Path, baseline: TrainedBaseline, tmp_path: Path
) -> None:
    model, result = trained(pretrained, baseline, tmp_path)
    metrics = result.metrics()
    assert metrics["validation/best_loss"] < metrics["validation/initial_loss"] - 0.05
    again = baseline.load(tmp_path, PretrainedFolder(pretrained, COMPUTE))
    assert not any(p.requires_grad for p in again.parameters())
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-6)
    assert stored_bytes(tmp_path) > 0


def test_lora_starts_as_the_model_and_changes_nothing_of_it(
    pretrained: Path, tmp_path: Path
) -> None:
    bare = PretrainedFolder(pretrained, COMPUTE).load()
    start = LORA.adaptable(PretrainedFolder(pretrained, COMPUTE))
    assert torch.equal(logits(start.eval()), logits(bare))
    trainable = {name: p for name, p in start.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    # Two matrices of rank 2 beside each of the seven linear layers of both blocks.
    assert len(trainable) == 2 * 7 * 2
    model, _ = trained(pretrained, LORA, tmp_path)
    after = dict(model.named_parameters())
    for name, weight in bare.named_parameters():
        found = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        assert found is not None
        assert torch.equal(found, weight), name


def test_peft_itself_reads_the_adapter(pretrained: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model, _ = trained(pretrained, LORA, tmp_path / "adapter")
    assert len(json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())) > 0
    base = PretrainedFolder(pretrained, COMPUTE).load()
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-6)


def test_two_trainings_write_the_same_bytes(pretrained: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        trained(pretrained, LORA, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "adapter_model.safetensors" in files
    for file in files:
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two, file
    modules = json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules)


def test_gradient_checkpointing_trains_lora_alike(pretrained: Path, tmp_path: Path) -> None:
    exact = Compute(device="cpu", dtype="float32")
    losses = []
    for setting in (False, True):
        model, result = trained(pretrained, LORA, tmp_path, exact, gradient_checkpointing=setting)
        # Packed rows serve it in either case.
        assert model.is_activation_checkpointing is setting
        assert PrefixModel(model).why_not_packed(tokens=8) is None
        losses.append([row.get("train/loss", 0.0) for row in result.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_missing_peft_is_one_sentence(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_peft(name: str, *rest: Any) -> Any:
        return None if name == "peft" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_peft)
    with pytest.raises(PipelineError, match=r"LoRA needs PEFT.*pip install '\.\[peft\]'"):
        LORA.adaptable(PretrainedFolder(pretrained, COMPUTE))


def test_modules_that_the_model_lacks(pretrained: Path) -> None:
    wrong = LORA.model_copy(update={"target_modules": ["query"]})
    with pytest.raises(PipelineError, match="PEFT refuses LoRA's settings: Target modules"):
        wrong.adaptable(PretrainedFolder(pretrained, COMPUTE))


ROWS = Dataset.from_dict({"id": list(range(40))})


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_smaller_subsets_lie_in_larger_ones(one: int, other: int, seed: int) -> None:
    small, large = (list(subset(ROWS, size, seed)["id"]) for size in sorted((one, other)))
    assert large[: len(small)] == small
    assert len(set(large)) == len(large) == max(one, other)


def test_subsets_of_seeds_differ_and_too_large_ones_are_refused() -> None:
    assert subset(ROWS, None, 0) is ROWS
    assert list(subset(ROWS, 10, 0)["id"]) != list(subset(ROWS, 10, 1)["id"])
    with pytest.raises(PipelineError, match=r"sweep\.train_sizes: 41 is above the 40 examples"):
        subset(ROWS, 41, 0)
