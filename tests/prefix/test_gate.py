"""Which models packed rows serve, and what is said of the others."""

import pytest

from pipeline.prefix import PrefixConfig, PrefixModel
from tests.conftest import tiny_model
from tests.prefix import encoders
from tests.prefix.architectures import build


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bloom", "BloomForCausalLM takes no position_ids"),
        ("mistral", "MistralForCausalLM has a sliding window"),
        ("falcon (ALiBi)", "gives other logits for packed examples than for each alone"),
        ("stablelm", "more than scaled, causal softmax attention (the model does not pass"),
    ],
)
@pytest.mark.parametrize("config", [None, PrefixConfig(4)])
def test_architectures_that_are_padded(name: str, reason: str, config: PrefixConfig | None) -> None:
    model = PrefixModel(build(name), config)
    for decoding in (False, True):
        assert reason in str(model.why_not_packed(decoding))


def test_a_cache_of_compressed_states_is_padded() -> None:
    """Multi-head latent attention caches fewer numbers than it attends to."""
    model = PrefixModel(build("deepseek_v3"), PrefixConfig(4))
    assert "its cache holds other states than its attention sees" in str(model.why_not_packed())


def test_prefixes_that_are_padded() -> None:
    config = PrefixConfig(4, layers=(1,))
    assert (
        PrefixModel(tiny_model(), config).why_not_packed() == "the prefix is for some layers alone"
    )
    head = PrefixConfig(4, modules_to_save=("lm_head",))
    assert "a head trained beside" in str(PrefixModel(tiny_model(), head).why_not_packed())
    both = PrefixModel(encoders.build("t5"))
    assert both.why_not_packed() == "T5ForConditionalGeneration is not causal throughout"


def test_decoding_is_asked_for_apart() -> None:
    model = PrefixModel(tiny_model(head_dim=6), PrefixConfig(4))
    assert model.why_not_packed() is None
    assert "the CPU's kernel" in str(model.why_not_packed(decoding=True))


def test_the_answer_is_kept_until_checkpointing_changes_it() -> None:
    bare = PrefixModel(tiny_model())
    assert bare.why_not_packed() is None
    bare.frozen_model.config.get_text_config().sliding_window = 4
    assert bare.why_not_packed() is None
    bare.gradient_checkpointing_enable()
    assert "recomputed in the backward pass" in str(bare.why_not_packed())
    tuned = PrefixModel(tiny_model(), PrefixConfig(4))
    tuned.gradient_checkpointing_enable()
    assert tuned.why_not_packed() is None
