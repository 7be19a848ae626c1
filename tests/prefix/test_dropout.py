"""A frozen model's own dropout is off wherever its prefix is trained, on every path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.loss.for_model import loss_for
from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from tests.conftest import kv_of, tiny_model
from tests.prefix import architectures, encoders

P = 4
MIXTRAL = {"attention_dropout": 0.3, "router_jitter_noise": 0.3}
PHI3 = {"attention_dropout": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neox": {"attention_dropout": 0.1, "hidden_dropout": 0.1},
    "opt": {"dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.5},
    "gpt_bigcode": {},
    "gptj": {"attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3},
    "bloom": {"attention_dropout": 0.3, "hidden_dropout": 0.3},
    "falcon (ALiBi)": {"attention_dropout": 0.3, "hidden_dropout": 0.3},
    "llama": {"attention_dropout": 0.3},
    "mixtral": {**MIXTRAL, "sliding_window": 128},
    "phi3": {**PHI3, "sliding_window": 128},
}
BART = {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3}
BERT: dict[str, Any] = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
ENCODERS: dict[str, dict[str, Any]] = {
    "bart": {**BART, "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5},
    "t5": {"dropout_rate": 0.3},
    "bert": BERT,
    "distilbert": {"dropout": 0.3, "attention_dropout": 0.3, "seq_classif_dropout": 0.3},
}
EXAMPLES = [
    {"input_ids": [10, 11, 12, 13, 14, 1, 2], "target_start": 5},
    {"input_ids": [20, 21, 22, 23, 24, 25, 26, 2, 1], "target_start": 7},
]
LABELS = [{**row, "input_ids": [*row["input_ids"][: row["target_start"]], 1]} for row in EXAMPLES]  # type: ignore[index]


def dropping(name: str, monkeypatch: pytest.MonkeyPatch) -> PreTrainedModel:
    """A model that drops out wherever its architecture can."""
    if name in ENCODERS:
        return encoders.build(name, **ENCODERS[name])
    family, settings = architectures.SETTINGS[name]
    changed = (family, {**settings, **DECODERS[name]})
    monkeypatch.setitem(architectures.SETTINGS, name, changed)
    return architectures.build(name)


def step(model: PrefixModel, ways: list[bool] | None = None) -> list[torch.Tensor]:
    """The loss of a batch and the prefix's gradient, packed or padded as `ways` has it."""
    loss_of = loss_for(model)
    if ways is not None:
        loss_of.packs = lambda _: ways[0]
    examples = EXAMPLES if model.frozen_model.can_generate() else LABELS
    model.zero_grad()
    losses = []
    for part in loss_of.parts(examples):
        loss = loss_of(part)
        loss.backward()
        losses.append(loss.detach())
    (parameter,) = model.encoder.parameters()
    assert parameter.grad is not None
    return [torch.stack(losses).sum(), parameter.grad.clone()]


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < tolerance


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_two_losses_of_one_batch_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = dropping(name, monkeypatch)
    model = PrefixModel(frozen, PrefixConfig(P))
    model.load_kv_prefix(kv_prefix_from_tokens(frozen, [5, 6, 7, 8]))
    expected = step(model.eval())
    model.train()
    assert all(map(torch.equal, step(model), expected))
    assert all(map(torch.equal, step(model), expected))
    if name in DECODERS:
        assert_near(step(model, [False]), expected, 1e-4)
    model.gradient_checkpointing_enable()
    calls = _counted(frozen)
    assert_near(step(model), expected, 1e-5)
    assert all(count % 2 == 0 and count for count in calls.values()), "a layer ran but once"
    if name in DECODERS:
        assert_near(step(model, [False]), expected, 1e-4)


def _counted(model: PreTrainedModel) -> dict[int, int]:
    """How often the first module without children in each layer runs, kept up to date."""
    counts: dict[int, int] = {}

    def count(module: nn.Module, *_: Any) -> None:
        counts[id(module)] += 1

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            inner = next(m for m in layer.modules() if not list(m.children()))
            counts[id(inner)] = 0
            inner.register_forward_hook(count)
    return counts


@pytest.mark.parametrize("name", ["gpt2", "opt", "bart"])
def test_the_same_models_drop_out_when_they_are_trained_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA and full fine-tuning train the model as its configuration has it."""
    model = PrefixModel(dropping(name, monkeypatch)).train()
    loss_of = loss_for(model)
    with torch.no_grad():
        found = {float(sum(map(loss_of, loss_of.parts(EXAMPLES)))) for _ in range(6)}
        assert len(found) > 1
        model.eval()
        assert len({float(loss_of(EXAMPLES)) for _ in range(3)}) == 1


def test_attention_that_drops_weights_is_padded_while_it_does() -> None:
    model = PrefixModel(tiny_model(attention_dropout=0.1)).train()
    assert "dropout of attention weights" in str(model.why_not_packed())
    assert model.eval().why_not_packed() is None
    with pytest.raises(PrefixError, match="dropout of attention weights"):
        model.train().packed_logits(torch.tensor([5, 6]), [2], torch.tensor([1]))
    assert PrefixModel(tiny_model(), PrefixConfig(P)).train().why_not_packed() is None


def test_a_change_of_mode_leaves_the_frozen_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that is at work with it would drop out meanwhile."""
    model = PrefixModel(tiny_model(), PrefixConfig(P))
    monkeypatch.setattr(type(model.frozen_model), "train", lambda *_: pytest.fail("it was touched"))
    assert model.train().encoder.training
    assert not model.eval().encoder.training
    assert not model.frozen_model.training


@torch.no_grad()
def test_whoever_shares_the_model_may_be_training_it() -> None:
    """Another's training mode is not seen, and is there again afterwards."""
    frozen = architectures.build("gpt2")
    assert GPT2LMHeadModel(frozen.config).training, "as transformers makes a model"
    assert not PrefixModel(GPT2LMHeadModel(frozen.config), PrefixConfig(P)).frozen_model.training
    tuned, bare = PrefixModel(frozen, PrefixConfig(P)), PrefixModel(frozen)
    assert not frozen.training, "without a prefix, as it was"
    batch = {"input_ids": torch.tensor([[10, 11, 12]])}
    expected = tuned.eval()(**batch).logits
    bare.train()
    assert torch.equal(tuned(**batch).logits, expected)
    ids, keep = torch.tensor([10, 11, 12]), torch.arange(3)
    assert torch.equal(tuned.packed_logits(ids, [3], keep), tuned.packed_logits(ids, [3], keep))
    assert frozen.training
    assert not torch.equal(bare(**batch).logits, bare(**batch).logits)
    assert torch.equal(*(_cached(frozen) for _ in range(2)))


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_layer_is_recomputed_as_it_was_while_another_trains_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training mode is back by the time of the backward pass."""
    frozen = dropping(name, monkeypatch)
    model = PrefixModel(frozen, PrefixConfig(P)).train()
    expected = step(model)
    model.gradient_checkpointing_enable()
    frozen.train()
    assert_near(step(model), expected, 1e-5)
    assert all(module.training for module in frozen.modules())


def _cached(frozen: PreTrainedModel) -> torch.Tensor:
    return kv_prefix_from_tokens(frozen, [5, 6, 7]).values[1]


@torch.no_grad()
def test_a_trained_head_keeps_the_dropout_inside_of_it() -> None:
    """As PEFT's `modules_to_save`: what is trained is regularised as it was made to be."""
    batch = {"input_ids": torch.tensor([[10, 11, 12]])}
    inside = encoders.build("roberta", **BERT, classifier_dropout=0.5)
    model = PrefixModel(inside, PrefixConfig(P, modules_to_save=("classifier",))).train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    # BERT's stands before its head, in the frozen model.
    before = encoders.build("bert", **BERT, classifier_dropout=0.5)
    model = PrefixModel(before, PrefixConfig(P, modules_to_save=("classifier",))).train()
    assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_the_bare_model_recomputes_nothing() -> None:
    frozen = architectures.build("gpt2")
    model = PrefixModel(frozen, PrefixConfig(P)).train()
    model.gradient_checkpointing_enable()
    step(model)
    assert not any("forward" in vars(layer) for layer in frozen.modules())
    calls = _counted(frozen)
    # With a cache that grows nothing is recomputed: its tokens would be appended twice.
    cache: Any = model.new_cache()
    model(input_ids=torch.tensor([[10, 11, 12]]), past_key_values=cache).logits.sum().backward()
    assert set(calls.values()) == {1}
    assert cache.get_seq_length() == 3


@pytest.mark.parametrize("make", [tiny_model, lambda: architectures.build("bloom")])
def test_prefix_dropout_is_replayed(make: Callable[[], PreTrainedModel]) -> None:
    """The prefix's own dropout stays on in training, and a recomputed layer meets the same."""
    model = PrefixModel(make(), PrefixConfig(P, prefix_dropout=0.5)).train()
    outcomes = []
    for recomputed in (False, True):
        if recomputed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(1)
        outcomes.append(step(model))
    assert_near(outcomes[1], outcomes[0], 1e-5)
    assert not torch.equal(step(model)[0], outcomes[0][0])
    assert kv_of(model).keys[0].isfinite().all()


@pytest.mark.parametrize("config", [PrefixConfig(P), None])
@pytest.mark.parametrize("why", ["no layers", "refused by transformers"])
def test_layers_that_cannot_be_recomputed(why: str, config: PrefixConfig | None) -> None:
    """Said in a sentence, of a model that is trained itself as well; JetMoe's are refused."""
    model = PrefixModel(tiny_model(), config)
    if why == "no layers":
        for module in model.frozen_model.modules():
            if isinstance(module, nn.ModuleList):
                del module[:]
    else:
        model.frozen_model.supports_gradient_checkpointing = False
    with pytest.raises(PrefixError, match="has no layers that transformers can recompute"):
        model.gradient_checkpointing_enable()
