"""LoRA, prompts, a prefix beside LoRA, full fine-tuning and training subsets, on a tiny model."""

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
from pipeline.baselines.prefix_and_lora import PrefixAndLora
from pipeline.baselines.prompt_tuning import PromptTuning
from pipeline.baselines.trained import TrainedBaseline
from pipeline.config.train import TrainParams
from pipeline.data.subset import subset
from pipeline.errors import PipelineError
from pipeline.models.pretrained import PretrainedFolder
from pipeline.prefix import KVPrefix, PrefixError, PrefixModel, prompted_model, random_kv_prefix
from pipeline.schema.compute import Compute
from pipeline.training.loop import train_prefix
from pipeline.training.results import stored_bytes
from pipeline.training.trained import TrainedWeights
from tests.conftest import kv_of, tiny_model, tiny_tokenizer
from tests.test_measuring import examples

LORA = Lora(type="lora", rank=2, learning_rate=0.02)
FULL = FullFineTuning(type="full_fine_tuning", learning_rate=0.01)
PROMPT = PromptTuning(type="prompt_tuning", num_virtual_tokens=5, learning_rate=0.3)
BOTH = PrefixAndLora(
    **{"type": "prefix_and_lora", "initialization": "random", "length": 3, "rank": 2},
    **{"learning_rate": 0.02, "prefix_learning_rate": 0.03},
)
ALL = {"lora": LORA, "prompt": PROMPT, "both": BOTH, "full": FULL}
COMPUTE = Compute(device="cpu", dtype="auto")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model stored in bfloat16, as the pipeline stores models by default."""
    folder = tmp_path_factory.mktemp("pretrained")
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def found_in(pretrained: Path, compute: Compute = COMPUTE) -> PretrainedFolder:
    """The pretrained model, and noise as what a prefix starts from."""

    def start(model: PrefixModel) -> KVPrefix:
        noise = torch.Generator().manual_seed(1)
        return random_kv_prefix(model.cache_shapes, model.prefix_length, 1.0, noise)

    return PretrainedFolder(pretrained, compute, start_for=start)


def trained(
    pretrained: Path,
    baseline: TrainedBaseline,
    folder: Path,
    compute: Compute = COMPUTE,
    **train: Any,
) -> Any:
    """Train a few steps, save to `folder`; returns the model and the losses."""
    torch.manual_seed(0)
    found = found_in(pretrained, compute)
    model = baseline.adaptable(found)
    settings = {"epochs": None, "max_steps": 6, "batch_size": 4, "eval_every_steps": 3, **train}
    data = Dataset.from_list(examples())
    params = baseline.training(TrainParams(**settings))
    log, apart = (lambda step, metrics: None), baseline.rate_apart(model)
    result = train_prefix(model, data, data, params, 0, log, apart=apart)
    assert isinstance(result.prefix, TrainedWeights)
    result.prefix.restore(model)
    baseline.save(model, folder, found)
    return model.eval(), result


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits.float()
    return found


@pytest.mark.parametrize("baseline", ALL.values(), ids=ALL)
def test_training_lowers_the_loss_and_what_is_stored_gives_it_back(
    pretrained: Path, baseline: TrainedBaseline, tmp_path: Path
) -> None:
    model, result = trained(pretrained, baseline, tmp_path)
    metrics = result.metrics()
    # Normalised in every layer, words move a small random model little.
    least = 0.005 if baseline is PROMPT else 0.05
    assert metrics["validation/best_loss"] < metrics["validation/initial_loss"] - least
    again = baseline.load(tmp_path, found_in(pretrained))
    assert not any(p.requires_grad for p in again.parameters())
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-6)
    assert stored_bytes(tmp_path) > 0


def test_lora_starts_as_the_model_and_changes_nothing_of_it(
    pretrained: Path, tmp_path: Path
) -> None:
    bare = PretrainedFolder(pretrained, COMPUTE).load()
    start = LORA.adaptable(found_in(pretrained)).frozen_model
    assert torch.equal(logits(start.eval()), logits(bare))
    trainable = {name: p for name, p in start.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trainable.items())
    # Two matrices of rank 2 beside each of the seven linear layers of both blocks.
    assert len(trainable) == 2 * 7 * 2
    model, _ = trained(pretrained, LORA, tmp_path)
    assert_unchanged(bare, model)


def assert_unchanged(bare: Any, model: PrefixModel) -> None:
    """Every weight of the frozen model is bit-identical, below LoRA's layers or not."""
    after = dict(model.frozen_model.named_parameters())
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


@pytest.mark.parametrize("baseline", [LORA, PROMPT, BOTH], ids=["lora", "prompt", "both"])
def test_two_trainings_write_the_same_bytes(
    pretrained: Path, baseline: TrainedBaseline, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        trained(pretrained, baseline, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "adapter_model.safetensors" in files
    for file in files:
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two, file
    modules = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    named = modules.get("target_modules", [])
    assert named == sorted(named)


@pytest.mark.parametrize("baseline", [LORA, PROMPT, BOTH], ids=["lora", "prompt", "both"])
def test_gradient_checkpointing_trains_alike(
    pretrained: Path, baseline: TrainedBaseline, tmp_path: Path
) -> None:
    exact = Compute(device="cpu", dtype="float32")
    losses = []
    for setting in (False, True):
        asked = {"gradient_checkpointing": setting}
        model, result = trained(pretrained, baseline, tmp_path, exact, **asked)
        # Packed rows serve it in either case.
        assert model.is_activation_checkpointing is setting
        assert model.why_not_packed(tokens=8) is None
        losses.append([row.get("train/loss", 0.0) for row in result.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_missing_peft_is_one_sentence(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_peft(name: str, *rest: Any) -> Any:
        return None if name == "peft" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_peft)
    with pytest.raises(PipelineError, match=r"LoRA needs PEFT.*pip install '\.\[peft\]'"):
        LORA.adaptable(found_in(pretrained))
    with pytest.raises(PipelineError, match=r"prompt tuning needs PEFT.*pip install '\.\[peft\]'"):
        PROMPT.adaptable(found_in(pretrained))


def test_modules_that_the_model_lacks(pretrained: Path) -> None:
    wrong = LORA.model_copy(update={"target_modules": ["query"]})
    with pytest.raises(PipelineError, match="PEFT refuses LoRA's settings: Target modules"):
        wrong.adaptable(found_in(pretrained))


def test_a_prompt_is_what_peft_makes_of_it(pretrained: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    exact = Compute(device="cpu", dtype="float32")
    model, _ = trained(pretrained, PROMPT, tmp_path, exact)
    theirs = PeftModel.from_pretrained(found_in(pretrained, exact).load(), tmp_path).eval()
    # PEFT gives logits at the virtual tokens too.
    torch.testing.assert_close(logits(theirs)[:, 5:], logits(model), rtol=0, atol=1e-4)
    ids = torch.tensor([[5, 6, 7]])
    greedy = {"max_new_tokens": 5, "do_sample": False}
    ours = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **greedy)
    said = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **greedy)
    assert ours.tolist() == said.tolist()
    assert_unchanged(found_in(pretrained, exact).load(), model)


def test_a_prompt_takes_the_gradient_that_peft_gives_it(pretrained: Path) -> None:
    exact = Compute(device="cpu", dtype="float32")
    torch.manual_seed(0)
    model = PROMPT.adaptable(found_in(pretrained, exact))
    theirs = PROMPT._by_peft(found_in(pretrained, exact).load(), found_in(pretrained, exact))
    weight = theirs.prompt_encoder["default"].embedding.weight
    weight.data.copy_(model.encoder.embedding)
    ids = torch.tensor([[5, 6, 7, 8], [3, 3, 9, 4]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    for each in (model, theirs):
        found = each(input_ids=ids[:1], attention_mask=mask[:1]).logits[:, -4:]
        found.log_softmax(-1)[..., 7].sum().backward()
    torch.testing.assert_close(model.encoder.embedding.grad, weight.grad, rtol=1e-4, atol=1e-6)
    # A row behind padding is what it is alone, and so are packed rows.
    padded = model(input_ids=ids, attention_mask=mask).logits[1, 2:]
    alone = model(input_ids=ids[1:, 2:]).logits[0]
    packed = model.packed_logits(ids[1, 2:], [2], torch.arange(2))
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-4)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-4)


def test_a_prompt_starts_as_it_is_asked_to(pretrained: Path) -> None:
    words = found_in(pretrained).load().get_input_embeddings().weight.detach().float()
    starts = {}
    for init, more in (("text", {"init_text": "ab"}), ("vocabulary", {}), ("random", {})):
        torch.manual_seed(0)
        asked = PromptTuning(type="prompt_tuning", num_virtual_tokens=5, init=init, **more)
        starts[init] = asked.adaptable(found_in(pretrained)).encoder.embedding.detach()
    text = tiny_tokenizer()("ab")["input_ids"]
    assert torch.equal(starts["text"], words[(text * 5)[:5]])
    assert all((row == words).all(1).any() for row in starts["vocabulary"])
    assert not any((row == words).all(1).any() for row in starts["random"])


def test_a_prompt_of_another_model_is_refused(model: Any) -> None:
    with pytest.raises(PrefixError, match=r"\[4, 7\].*reads embeddings \[p, 32\]"):
        prompted_model(model, torch.zeros(4, 7))
    prompted = prompted_model(model, torch.zeros(4, 32))
    with pytest.raises(PrefixError, match="starts from embeddings, never from keys and values"):
        prompted.load_kv_prefix(kv_of(prompted))


def test_prefix_and_lora_start_as_the_prefix_alone_and_train_at_their_own_rates(
    pretrained: Path, tmp_path: Path
) -> None:
    found = found_in(pretrained, Compute(device="cpu", dtype="float32"))
    model = BOTH.adaptable(found)
    alone = PrefixModel(found.load(), model.prefix_config)
    alone.load_kv_prefix(found.start(alone))
    assert torch.equal(logits(model), logits(alone))
    apart = BOTH.rate_apart(model)
    assert apart is not None
    assert (len(apart.parameters), apart.rate) == (1, 0.03)
    # AdamW's first step moves every number by its rate, whatever its gradient.
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in before} == {"frozen_model", "encoder"}
    settings = {"epochs": None, "max_steps": 1, "batch_size": 4, "schedule": "constant"}
    params = BOTH.training(TrainParams(**settings, max_grad_norm=None))
    data = Dataset.from_list(examples())
    train_prefix(model, data, data, params, 0, lambda step, metrics: None, apart=apart)
    after = dict(model.named_parameters())
    moved = {name: (after[name].detach() - start).abs().max() for name, start in before.items()}
    assert moved.pop("encoder.embedding") == pytest.approx(0.03, rel=1e-3)
    seconds = [distance for name, distance in moved.items() if "lora_B" in name]
    assert [float(distance) for distance in seconds] == pytest.approx([0.02] * 14, rel=1e-3)


def test_prefix_and_lora_leave_the_frozen_weights_as_they_are(
    pretrained: Path, tmp_path: Path
) -> None:
    model, _ = trained(pretrained, BOTH, tmp_path)
    assert_unchanged(found_in(pretrained).load(), model)
    alone = stored_bytes(tmp_path) - (tmp_path / "prefix.safetensors").stat().st_size
    assert alone == (tmp_path / "adapter_model.safetensors").stat().st_size


@pytest.mark.parametrize("baseline", [LORA, BOTH], ids=["lora", "both"])
def test_merged_matrices_give_the_same_without_layers_of_their_own(
    pretrained: Path, baseline: TrainedBaseline, tmp_path: Path
) -> None:
    exact = Compute(device="cpu", dtype="float32")
    trained(pretrained, baseline, tmp_path, exact)
    model = baseline.load(tmp_path, found_in(pretrained, exact))
    before, bare = logits(model), logits(found_in(pretrained, exact).load())
    assert (before - bare).abs().max() > 1e-3
    assert baseline.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_modules())
    assert not FULL.merge(model)


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
