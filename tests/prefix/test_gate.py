"""Which models packed rows serve, and what is said of the others."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.prefix import PrefixConfig, PrefixModel, packed, random_kv_prefix
from pipeline.prefix.architecture.miniature import miniature_of
from pipeline.prefix.packed import gate, logits
from pipeline.prefix.packed.backends import shared_prefix_attention
from pipeline.prefix.packed.call import PackedAttentionCall
from pipeline.prefix.packed.sight import Sight
from tests.conftest import tiny_model
from tests.prefix import encoders
from tests.prefix.architectures import SETTINGS, build

SERVED = (
    *("gpt2", "opt", "gpt_neox", "gpt_bigcode", "llama", "mistral", "mixtral", "qwen2", "qwen3"),
    *("qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "olmo3"),
    *("starcoder2", "cohere", "cohere2", "granite", "smollm3", "glm4", "exaone4", "gpt_oss"),
)
HIDDEN = "computes its attention itself, out of reach of AttentionInterface"
BEYOND = "more than scaled, causal softmax attention"
REFUSED = {
    "gpt_neo": HIDDEN,
    "gptj": HIDDEN,
    "bloom": "BloomForCausalLM takes no position_ids",
    "mpt": "MptForCausalLM takes no position_ids",
    "falcon (multi-query)": HIDDEN,
    "falcon (grouped)": HIDDEN,
    "falcon (ALiBi)": HIDDEN,
    "stablelm": f"{BEYOND} (the model does not pass keywords on)",
    # Multi-head latent attention caches fewer numbers than it attends to.
    "deepseek_v3": f"{BEYOND} (its cache holds other states than its attention sees)",
}


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was found out of every architecture."""
    monkeypatch.setattr(gate, "_verdicts", {})


def test_every_architecture_is_decided() -> None:
    assert {*SERVED, *REFUSED} == set(SETTINGS)
    for name in SETTINGS:
        model = PrefixModel(build(name), PrefixConfig(4))
        for decoding in (False, True):
            reason = model.why_not_packed(decoding)
            if name in REFUSED:
                assert REFUSED[name] in str(reason)
            else:
                assert reason is None, name


@pytest.mark.parametrize("name", SERVED)
def test_what_is_served_is_decoded_in_packed_rows_as_alone(name: str) -> None:
    """On any device, by torch's operators: most of these have no heads that the kernel takes."""
    model = PrefixModel(build(name), PrefixConfig(2)).eval()
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 2, 0.5, draw))
    ids = [torch.randint(8, 90, (n,), generator=draw).tolist() for n in (3, 2)]
    with torch.inference_mode():
        rows = [{"input_ids": [*row, 5], "target_start": len(row)} for row in ids]
        found = PackedBatch(model, rows, 3).continuations(3, set())
        for row, text in zip(ids, found, strict=True):
            alone = torch.tensor([row])
            whole = model.generate(
                input_ids=alone,
                attention_mask=torch.ones_like(alone),
                max_new_tokens=3,
                min_new_tokens=3,
                do_sample=False,
                pad_token_id=0,
            )
            assert whole[0, len(row) :].tolist() == text


@pytest.mark.usefixtures("untried")
def test_a_scale_wrong_by_a_tenth_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small models tell a slightly wrong attention from a right one by far."""

    def wrong(call: PackedAttentionCall) -> torch.Tensor:
        return shared_prefix_attention(replace(call, scaling=1.1 * call.scaling))

    monkeypatch.setattr(logits, "shared_prefix_attention", wrong)
    for name in SERVED:
        reason = PrefixModel(build(name), PrefixConfig(4)).why_not_packed()
        assert "gives other logits for packed examples" in str(reason), name


@pytest.mark.usefixtures("untried")
def test_a_window_wrong_by_one_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at the size of real windows, which are tried in small."""

    def wrong(sight: Sight, position: int) -> int:
        return max(0, position - (sight.window or sight.chunk or 0))

    sliding = [name for name in SERVED if SETTINGS[name][1].get("sliding_window")]
    models = [(build(name), 8, 30) for name in sliding]
    far = {"sliding_window": 500, "max_position_embeddings": 1024}
    models.append((build("mistral", far), 500, 502))
    for model, _, tokens in models:
        assert PrefixModel(model, PrefixConfig(4)).why_not_packed(tokens=tokens) is None
    monkeypatch.setattr(gate, "_verdicts", {})
    monkeypatch.setattr(Sight, "first", wrong)
    packed.sight._of_row.cache_clear()
    for model, window, tokens in models:
        tried = PrefixModel(model, PrefixConfig(4))
        reason = str(tried.why_not_packed(tokens=tokens))
        assert f"beyond a window of {window} tokens {type(model).__name__} gives other" in reason
        assert tried.why_not_packed(tokens=4) is None
    packed.sight._of_row.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 32, 400])
def test_neither_values_nor_dtype_decide(dtype: torch.dtype, length: int) -> None:
    """Prefixes far larger than a text's keys and values, of any length, in any dtype."""
    model = PrefixModel(tiny_model().to(dtype), PrefixConfig(length))
    for seed, scale in enumerate((0.02, 1.0, 100.0)):
        draw = torch.Generator().manual_seed(seed)
        model.load_kv_prefix(random_kv_prefix(model.kv_shapes, length, scale, draw))
        assert model.why_not_packed() is None


@pytest.mark.usefixtures("untried")
def test_an_architecture_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And torch's random numbers are those of before."""
    made: list[PreTrainedModel] = []

    def making(model: PreTrainedModel) -> PreTrainedModel:
        made.append(model)
        return miniature_of(model)

    monkeypatch.setattr(gate, "miniature_of", making)
    before = torch.get_rng_state()
    for seed in range(3):
        assert PrefixModel(tiny_model(seed)).frozen_model.config is not None
    torch.set_rng_state(before)
    for model in [tiny_model(seed) for seed in range(3)]:
        tuned = PrefixModel(model, PrefixConfig(4 + len(made)))
        state = torch.get_rng_state()
        assert tuned.why_not_packed() is None
        assert tuned.why_not_packed(tokens=30) is None
        assert torch.equal(torch.get_rng_state(), state)
    assert len(made) == 1
    assert PrefixModel(tiny_model(rope_theta=500.0), PrefixConfig(4)).why_not_packed() is None
    assert len(made) == 2


def test_what_cannot_be_made_small_is_padded() -> None:
    model = tiny_model()
    model.config.hidden_act = "none that there is"
    reason = str(PrefixModel(model, PrefixConfig(4)).why_not_packed())
    assert "cannot be tried on packed examples" in reason
    assert "none that there is" in reason


def test_prefixes_that_are_padded() -> None:
    config = PrefixConfig(4, layers=(1,))
    assert (
        PrefixModel(tiny_model(), config).why_not_packed() == "the prefix is for some layers alone"
    )
    head = PrefixConfig(4, modules_to_save=("lm_head",))
    assert "a head trained beside" in str(PrefixModel(tiny_model(), head).why_not_packed())
    both = PrefixModel(encoders.build("t5"))
    assert both.why_not_packed() == "T5ForConditionalGeneration is not causal throughout"
