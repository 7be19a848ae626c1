"""Packed rows serve exactly what they serve, at any length, and are used as far as they do."""

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.architecture.reach import Reach, reach_of, rotary_switch
from pipeline.preflight.context import context_of as context_before_stages
from tests.prefix.architectures import BASE, SETTINGS, WINDOW, build

P = 5
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.0, 3.0, 9.0, 27.0],
    "rope_theta": 10000.0,
}


def llama4(**changes: Any) -> PreTrainedModel:
    """Two layers in chunks and two without positions, as every fourth of Llama 4's is."""
    settings = {
        **BASE,
        "num_hidden_layers": 4,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 1, 0, 0],
        "attention_chunk_size": 16,
        "attn_temperature_tuning": False,
        "attn_scale": 0.9,
    }
    return _made("Llama4Text", "Llama4ForCausalLM", {**settings, **changes})


def longrope(original: int = 24) -> PreTrainedModel:
    settings = {**BASE, "original_max_position_embeddings": original, "sliding_window": None}
    return _made("Phi3", "Phi3ForCausalLM", {**settings, "rope_parameters": dict(LONGROPE)})


def dynamic(original: int = 24) -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    changes = {"max_position_embeddings": original, "rope_parameters": rope}
    return _made("Llama", "LlamaForCausalLM", {**BASE, **changes})


def _made(family: str, name: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model: PreTrainedModel = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Scores large enough that what is seen, and from where, makes a difference.
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    return model


def examples(lengths: list[int]) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(8, 250, (length,), generator=draw).tolist() for length in lengths]
    return [{"input_ids": row, "target_start": 2} for row in rows]


def prefixed(model: PreTrainedModel) -> PrefixModel:
    tuned = PrefixModel(model, PrefixConfig(P)).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(model, list(range(20, 20 + P))))
    return tuned


def alone(model: PrefixModel, example: dict[str, Any]) -> float:
    ids = torch.tensor([example["input_ids"]])
    logits = model(input_ids=ids).logits[0, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return float(losses[example["target_start"] - 1 :].sum())


@torch.no_grad()
def assert_each_is_right(model: PrefixModel, packed: list[int], padded: list[int]) -> None:
    """Every example by itself and all together, some of which are packed and some are not."""
    loss_of = TargetLoss(model)
    some, others = examples(packed), examples(padded)
    assert all(map(loss_of.packs, packed))
    assert not any(map(loss_of.packs, padded))
    expected = [alone(model, row) for row in some + others]
    found = [float(loss_of([row])) for row in some + others]
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(loss_of(some + others)) == pytest.approx(sum(expected), rel=1e-5)
    together = sum(float(loss_of(part)) for part in loss_of.parts(others + some))
    assert together == pytest.approx(sum(expected), rel=1e-5)


SLIDING = [name for name, (_, settings) in SETTINGS.items() if settings.get("sliding_window")]


@pytest.mark.parametrize("name", SLIDING)
def test_what_windows_hide_is_hidden_in_packed_rows(name: str) -> None:
    reached = WINDOW - P
    assert_each_is_right(prefixed(build(name)), [3, reached, reached + 1, 30], [])


def test_chunked_attention() -> None:
    assert_each_is_right(prefixed(llama4()), [3, 16 - P, 17 - P, 40], [])


def test_windows_that_no_mask_shows_end_what_is_packed() -> None:
    """Sparse attention to the best keys, for one: what it hides depends on the queries."""
    frozen = _made("Llama", "LlamaForCausalLM", BASE)
    frozen.config.index_topk = WINDOW
    model = prefixed(frozen)
    reached = WINDOW - P
    assert model.why_not_packed(tokens=reached) is None
    assert f"has a window of {WINDOW} tokens" in str(model.why_not_packed(tokens=reached + 1))
    ids = torch.arange(20, 20 + reached + 1)
    with pytest.raises(PrefixError, match=f"has a window of {WINDOW} tokens"):
        model.packed_logits(ids, [len(ids)], torch.tensor([0]))
    assert model.packed_logits(ids, [2, len(ids) - 2], torch.tensor([0])).isfinite().all()


def test_queries_scaled_by_their_place_in_the_row() -> None:
    """Llama 4 counts places in the row it is given: a packed row ends before they weigh."""
    tuned = {"attn_temperature_tuning": True, "floor_scale": 20, "attention_chunk_size": 64}
    model = prefixed(llama4(**tuned))
    assert reach_of(model.config).row == 19
    assert_each_is_right(model, [3, 14, 9, 12], [15, 40])
    rows = [sum(len(row["input_ids"]) for row in part) for part in
            TargetLoss(model).parts(examples([3, 9, 12, 5]))]  # fmt: skip
    assert max(rows) + P < 20


@pytest.mark.filterwarnings("ignore:prefix and inputs take")
def test_rotary_factors_that_change_with_the_length() -> None:
    model = prefixed(longrope())
    assert_each_is_right(model, [3, 24 - P], [25 - P, 40])


def test_inputs_on_either_side_of_a_change_are_not_mixed() -> None:
    model = prefixed(longrope())
    ids = torch.arange(30, 60)[None].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[0, :20] = 0
    with pytest.raises(PrefixError, match="changes its rotary embedding beyond 24 positions"):
        model(input_ids=ids, attention_mask=mask)
    with pytest.warns(UserWarning, match="prefix and inputs take 35 positions"):
        model(input_ids=ids)
    with pytest.raises(PrefixError, match="what is generated within that"):
        model.generate(ids[:, :15], max_new_tokens=9, min_new_tokens=9, pad_token_id=3)
    short = model.generate(ids[:, :15], max_new_tokens=5, min_new_tokens=5, pad_token_id=3)
    assert short.shape == (2, 20)


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_the_context_ends_where_the_rotation_changes(make: Any) -> None:
    assert context_of(make()) == rotary_switch(make().config) == 24
    with pytest.raises(PrefixError, match="context of 24 positions"):
        PrefixModel(make(), PrefixConfig(24))
    model = PrefixModel(make(), PrefixConfig(4))
    assert "changes its rotary embedding" in str(model.why_not_packed(tokens=21))
    assert model.why_not_packed(tokens=20) is None


@pytest.mark.parametrize("make", [longrope, dynamic])
def test_the_check_before_any_stage_counts_the_same_context(make: Any) -> None:
    config = make().config.to_dict()
    assert context_before_stages(config) == 24
    if make is longrope:
        # As the Hub's own files have it.
        config["rope_scaling"] = {**config.pop("rope_parameters"), "type": "su"}
        del config["rope_scaling"]["rope_type"]
        assert context_before_stages(config) == 24


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Reach()),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, Reach()),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
            Reach(),
        ),
    ],
)
def test_what_does_not_change_with_the_length_has_no_end(
    changes: dict[str, Any], expected: Reach
) -> None:
    model = _made("Llama", "LlamaForCausalLM", {**BASE, **changes})
    assert reach_of(model.config) == expected
    assert_each_is_right(prefixed(model), [3, 100, 200], [])


def test_what_no_configuration_says_is_seen_at_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lengths that examples have are tried, not five tokens."""
    from pipeline.prefix.architecture import reach

    monkeypatch.setattr(reach, "MASKED", ())
    model = PrefixModel(llama4(attention_chunk_size=100), PrefixConfig(4))
    assert model.why_not_packed(tokens=50) is None
    assert "gives other logits" in str(model.why_not_packed(tokens=120))
    settings = {**BASE, "sliding_window": 100}
    model = PrefixModel(_made("Mistral", "MistralForCausalLM", settings), PrefixConfig(4))
    assert model.why_not_packed(tokens=50) is None
    reason = str(model.why_not_packed(tokens=120))
    assert "a window of 100 tokens that its mask does not show" in reason


def test_a_mask_of_a_models_own_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by its masks where windows are met, and where the gate is not asked."""
    from transformers.models.mistral import modeling_mistral

    made = modeling_mistral.create_sliding_window_causal_mask

    def overlaid(**given: Any) -> Any:
        return made(**given, or_mask_function=lambda _b, _h, query, key: key == query - key)

    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", overlaid)
    model = prefixed(_made("Mistral", "MistralForCausalLM", {**BASE, "sliding_window": 12}))
    sentence = "beyond a window of 12 tokens MistralForCausalLM .* (a mask of its own)"
    assert model.why_not_packed(tokens=40) is not None
    with pytest.raises(PrefixError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        model.packed_logits(torch.arange(20, 60), [40], torch.tensor([0]))
