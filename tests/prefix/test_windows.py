"""Models with windows, chunks, softcaps and sinks: packed rows give what examples give alone."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Llama4ForCausalLM, Llama4TextConfig, PreTrainedModel

from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.together import packed_logits_together
from tests import devices
from tests.prefix.architectures import BASE, WINDOW, build

NAMES = ("gemma2", "gemma3_text", "mistral", "phi3", "gpt_oss", "cohere2", "olmo3", "qwen2")
LLAMA4 = {
    **BASE,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "interleave_moe_layer_step": 2,
    "no_rope_layers": [1, 0],
    "attention_chunk_size": WINDOW,
    "attn_temperature_tuning": False,
    "head_dim": 16,
}
# Within a window and far beyond it; prefixes shorter and longer than one.
LENGTHS = [3, 21, 9]
PREFIXES = (3, WINDOW + 4)


def frozen(name: str) -> PreTrainedModel:
    """Heads of 16 numbers, which the CPU's kernel takes, and scores that differ from key to key."""
    if name == "llama4_text":
        torch.manual_seed(0)
        model: Any = Llama4ForCausalLM(Llama4TextConfig(**LLAMA4)).eval().to(devices.chosen)
    else:
        model = build(name, {"head_dim": 16})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    return model


def prefixed(model: PreTrainedModel, p: int, **how: Any) -> PrefixModel:
    tuned = PrefixModel(model, PrefixConfig(p, **how)).eval()
    draw = torch.Generator().manual_seed(p)
    tuned.load_kv_prefix(random_kv_prefix(tuned.kv_shapes, p, 1.0, draw))
    return tuned


def rows_of(lengths: list[int]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(8, 250, (length,), generator=draw) for length in lengths]


def outcome(model: PrefixModel, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the prefix's gradient of a sum whose weights depend on the place."""
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    parameters = list(model.encoder.parameters())
    gradients = torch.autograd.grad((logits * weights).sum(), parameters)
    return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def assert_packed_as_alone(model: PrefixModel, lengths: list[int]) -> None:
    rows = rows_of(lengths)
    assert model.why_not_packed(tokens=max(lengths)) is None
    packed = model.packed_logits(torch.cat(rows), lengths, torch.arange(sum(lengths)))
    alone = torch.cat([model(input_ids=row[None]).logits[0] for row in rows])
    for found, expected in zip(outcome(model, packed), outcome(model, alone), strict=True):
        # A window of one token shows nothing of a prefix, whose gradient is zero.
        largest = max(float(expected.abs().max()), 1e-3)
        assert float((found - expected).abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "llama4_text"])
def test_forward_and_gradient_beyond_a_window(name: str, always: bool) -> None:
    model = frozen(name)
    for p in PREFIXES:
        assert_packed_as_alone(prefixed(model, p, prefix_always_visible=always), LENGTHS)


@pytest.mark.parametrize("name", [*NAMES, "llama4_text"])
def test_decoding_beyond_a_window(name: str) -> None:
    """Windows that are left while text is generated, too."""
    model = frozen(name)
    for p, always in ((2, False), (5, True)):
        tuned = prefixed(model, p, prefix_always_visible=always)
        assert tuned.why_not_packed(decoding=True, tokens=20) is None
        ids = [row.tolist() for row in rows_of([3, 9])]
        with torch.inference_mode():
            examples = [{"input_ids": [*row, 5], "target_start": len(row)} for row in ids]
            found = PackedBatch(tuned, examples, 8).continuations(8, set())
            for row, text in zip(ids, found, strict=True):
                whole = tuned.generate(
                    input_ids=torch.tensor([row]),
                    attention_mask=torch.ones(1, len(row), dtype=torch.long),
                    max_new_tokens=8,
                    min_new_tokens=8,
                    do_sample=False,
                    pad_token_id=0,
                )
                assert whole[0, len(row) :].tolist() == text


MISTRAL = frozen("mistral")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    window=st.integers(1, 30),
    p=st.integers(1, 20),
    always=st.booleans(),
)
def test_any_lengths_and_window(lengths: list[int], window: int, p: int, always: bool) -> None:
    MISTRAL.config.sliding_window = window
    try:
        assert_packed_as_alone(prefixed(MISTRAL, p, prefix_always_visible=always), lengths)
    finally:
        MISTRAL.config.sliding_window = WINDOW


@pytest.mark.parametrize("name", ["gemma2", "llama4_text"])
def test_hidden_virtual_tokens_keep_the_places_of_the_others(name: str) -> None:
    model = prefixed(frozen(name), 6)
    rows = rows_of(LENGTHS)
    with torch.no_grad(), model.without(tokens=[1, 4]):
        packed = model.packed_logits(torch.cat(rows), LENGTHS, torch.arange(sum(LENGTHS)))
        alone = torch.cat([model(input_ids=row[None]).logits[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_a_row_of_prefixes_of_any_length() -> None:
    model = frozen("gemma3_text")
    models = [prefixed(model, 2), prefixed(model, 9, prefix_always_visible=True)]
    rows = rows_of([*LENGTHS, 12])
    keep = torch.arange(sum(map(len, rows)))
    found = packed_logits_together(models, torch.cat(rows), [LENGTHS, [12]], keep)
    owners = [models[0]] * 3 + [models[1]]
    alone = [one(input_ids=row[None]).logits[0] for one, row in zip(owners, rows, strict=True)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_sinks_that_are_trained_get_their_gradient() -> None:
    """Where the model itself is trained, in packed rows as alone."""
    model = frozen("gpt_oss").requires_grad_(True)
    tuned, rows = PrefixModel(model).eval(), rows_of(LENGTHS)
    assert tuned.why_not_packed(tokens=max(LENGTHS)) is None
    sinks = [parameter for name, parameter in model.named_parameters() if "sinks" in name]
    keep = torch.arange(sum(LENGTHS))
    outcomes = []
    for logits in (
        tuned.packed_logits(torch.cat(rows), LENGTHS, keep),
        torch.cat([model(input_ids=row[None]).logits[0] for row in rows]),
    ):
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        outcomes.append(torch.autograd.grad((logits * weights).sum(), sinks))
    assert len(sinks) == 2
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
