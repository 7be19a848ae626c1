"""A prefix on a tiny encoder-decoder that was trained here until it does what it is told."""

import pytest
import torch
from transformers import T5ForConditionalGeneration

from benchmarks.letters import SORT, TOLD, UNMARKED, batch_of, exact_share, examples, trained_model
from benchmarks.seq2seq import WAYS, measured, train

pytestmark = pytest.mark.slow

RULE = TOLD[SORT]


@pytest.fixture(scope="module")
def frozen() -> T5ForConditionalGeneration:
    return trained_model(steps=380)


def test_the_frozen_model_sorts_when_told_to(frozen: T5ForConditionalGeneration) -> None:
    assert exact_share(frozen, examples(SORT, RULE, 300, seed=7)) > 0.9
    assert exact_share(frozen, examples(UNMARKED, RULE, 300, seed=7)) < 0.5


def test_the_full_prefix_tells_it_better_than_the_decoder_s_alone(
    frozen: T5ForConditionalGeneration,
) -> None:
    """As many trained numbers, the same examples, steps and rate."""
    before = {key: tensor.clone() for key, tensor in frozen.state_dict().items()}
    with torch.inference_mode():
        bare = float(frozen(**batch_of(examples(UNMARKED, RULE, 500, 10_002))).loss)
    found = {}
    for way, (parts, times) in WAYS.items():
        model = train(frozen, parts, 4 * times, RULE, seed=0, rate=0.1, steps=60)
        found[way], _ = measured(model, RULE, 10_002)
        model.detach()
    assert found["encoder, decoder, cross"] < found["decoder alone"] < bare
    assert all(torch.equal(before[key], tensor) for key, tensor in frozen.state_dict().items())
