"""A start from several: the mean of prefixes, and the loss by which one of them is chosen."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.prefix import (
    PrefixError,
    kv_prefix_from_source_tokens,
    kv_prefix_from_tokens,
    mean_kv_prefix,
    untrained_loss,
)
from tests.hybrids import HYBRIDS
from tests.prefix import encoders
from tests.prefix.test_initializers import equal
from tests.prefix.test_statistics import the_model


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.integers(4, 250), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(1, 6),
)
def test_the_mean_is_position_by_position(of: list[list[int]], p: int) -> None:
    prefixes = [kv_prefix_from_tokens(the_model(), text) for text in of]
    mean = mean_kv_prefix(prefixes)
    equal(mean[:p], mean_kv_prefix([kv[:p] for kv in prefixes]), 1e-6)
    equal(mean, mean_kv_prefix(prefixes[::-1]), 1e-5)
    equal(mean_kv_prefix([prefixes[0]] * 3), prefixes[0], 1e-6)
    key = sum(kv.keys[1][:, p - 1] for kv in prefixes) / len(prefixes)
    torch.testing.assert_close(mean.keys[1][:, p - 1], key, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", HYBRIDS)
def test_states_are_averaged_too(name: str) -> None:
    model = HYBRIDS[name]()
    one, other = (kv_prefix_from_tokens(model, [at, 50, 60]) for at in (40, 41))
    mean = mean_kv_prefix([one, other])
    assert mean.states.keys() == one.states.keys()
    for state, tensor in mean.states.items():
        torch.testing.assert_close(tensor, (one.states[state] + other.states[state]) / 2)


def test_parts_of_an_encoder_decoder_stay_apart() -> None:
    model = encoders.build("t5")
    prefixes = [kv_prefix_from_source_tokens(model, [at, 50, 60]) for at in (40, 41)]
    mean = mean_kv_prefix(prefixes)
    assert mean.parts == prefixes[0].parts


def test_a_mean_begins_a_text_where_all_do() -> None:
    one, other = (kv_prefix_from_tokens(the_model(), [1, at]) for at in (40, 41))
    assert mean_kv_prefix([one.beginning_text(), other.beginning_text()]).begins_text
    assert not mean_kv_prefix([one.beginning_text(), other]).begins_text


def test_prefixes_without_a_mean_are_refused() -> None:
    kv = kv_prefix_from_tokens(the_model(), [5, 6, 7])
    with pytest.raises(PrefixError, match="no prefix whose mean could be taken"):
        mean_kv_prefix([])
    with pytest.raises(PrefixError, match="prefixes of unlike shapes have no mean"):
        mean_kv_prefix([kv, kv[:2]])


def test_no_example_has_no_loss() -> None:
    kv = kv_prefix_from_tokens(the_model(), [5, 6, 7])
    with pytest.raises(PrefixError, match="no example whose target could be predicted"):
        untrained_loss(the_model(), kv, [])
