"""Noise with the statistics of what a model caches: its law, its positions, every kind of model."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_statistics,
    kv_prefix_from_tokens,
)
from pipeline.prefix.architecture.key_positions import key_positions
from pipeline.prefix.parameters.flat import flatten
from tests.conftest import kv_of, tiny_model
from tests.hybrids import HYBRIDS
from tests.prefix import architectures, encoders, indexed
from tests.prefix.test_initializers import LEARNED, ROTARY, UNROTATED, equal

P = 7
# It reads no token alone at another position.
BY_PLACE = "minimax_m3_vl_text"
# A sink takes a share of the attention that falls with the number of tokens.
REPEATING = [name for name in (*ROTARY, *UNROTATED) if name != "gpt_oss"]
SEVERAL: dict[str, Callable[[], PreTrainedModel]] = {
    **{name: partial(architectures.build, name) for name in LEARNED},
    **HYBRIDS,
    **{name: partial(indexed.build, name) for name in indexed.CONFIGURATIONS if name != BY_PLACE},
    **{name: partial(encoders.build, name) for name in ("t5", "bart", "bert")},
}
the_model = cache(tiny_model)


def texts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, 90, (count, length), generator=draw).tolist()


def drawn(
    model: PreTrainedModel, of: list[list[int]], p: int = P, seed: int = 0, scale: float = 1.0
) -> KVPrefix:
    return kv_prefix_from_statistics(model, of, p, torch.Generator().manual_seed(seed), scale)


def unrotated(model: PreTrainedModel, kv: KVPrefix) -> torch.Tensor:
    """All that is cached of each token, its key at position 0, `[p, width]`."""
    turning = key_positions(model, len(kv))
    assert turning is not None
    return flatten(turning.moved(kv, range(len(kv)), [0] * len(kv))).double()


def test_mean_and_covariance_are_those_of_the_tokens() -> None:
    model, of = the_model(), texts(6, 20)
    rows = torch.cat([unrotated(model, kv_prefix_from_tokens(model, text))[1:] for text in of])
    draws = torch.cat([unrotated(model, drawn(model, of, 501, seed))[1:] for seed in range(8)])
    off = (draws.mean(0) - rows.mean(0)) / rows.std(0)
    assert float(off.abs().max()) < 4 / len(draws) ** 0.5
    wanted, found = rows.T.cov(), draws.T.cov()
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
    # Not of each dimension alone: between layers, too.
    alone = torch.diag(wanted.diagonal())
    assert float((found - alone).norm() / wanted.norm()) > 0.5


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.integers(4, 250), min_size=2, max_size=9), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_scale_moves_every_draw_on_a_line_from_the_mean(
    of: list[list[int]], p: int, seed: int
) -> None:
    model = the_model()
    mean, one, half = (unrotated(model, drawn(model, of, p, seed, s)) for s in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half, (mean + one) / 2, rtol=0, atol=1e-4)
    rows = [unrotated(model, kv_prefix_from_tokens(model, text)) for text in of]
    first, others = torch.stack([r[0] for r in rows]), torch.cat([r[1:] for r in rows])
    torch.testing.assert_close(mean[0], first.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean[1:], others.mean(0).expand_as(mean[1:]), rtol=0, atol=1e-4)
    equal(drawn(model, of, p, seed), drawn(model, of, p, seed))


@pytest.mark.parametrize("name", REPEATING)
def test_a_text_of_one_token_is_drawn_as_it_is_cached(name: str) -> None:
    """Its tokens differ by their positions alone, which go out of the keys and into them again."""
    model = architectures.build(name)
    kv = drawn(model, [[11] * 12, [11] * 9])
    equal(kv, kv_prefix_from_tokens(model, [11] * P), 1e-4)


def test_the_token_that_begins_every_text_is_the_first_virtual_token() -> None:
    model = the_model()
    of = [[1, *text] for text in texts(5, 12)]
    one, other = (drawn(model, of, seed=seed) for seed in (0, 1))
    begin = kv_prefix_from_tokens(model, [1])
    equal(one[:1], begin, 1e-5)
    equal(other[:1], begin, 1e-5)
    assert not torch.equal(one.keys[1][:, 1:], other.keys[1][:, 1:])


@pytest.mark.parametrize("name", SEVERAL)
def test_it_is_a_prefix_of_every_kind_of_model(name: str) -> None:
    model = SEVERAL[name]()
    of = texts(3, 10)
    kv, again, other = (drawn(model, of, seed=seed) for seed in (0, 0, 1))
    like = kv_prefix_from_tokens(model, of[0][:P])
    assert (kv.shapes, kv.layers, kv.parts) == (like.shapes, like.layers, like.parts)
    assert {n: s.shape for n, s in kv.states.items()} == {
        n: s.shape for n, s in like.states.items()
    }
    equal(kv, again)
    for name_of_state, state in kv.states.items():
        assert torch.equal(state, again.states[name_of_state])
        is_noise = state.is_floating_point()
        assert torch.equal(state, other.states[name_of_state]) is not is_noise
    tuned = PrefixModel(model, PrefixConfig(P))
    tuned.load_kv_prefix(kv)
    equal(kv_of(tuned), kv, 1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"of": []}, "statistics are taken of texts, each of a token or more"),
        ({"of": [[5, 6], []]}, "statistics are taken of texts, each of a token or more"),
        ({"of": [[5], [6]]}, "no text has a second token"),
        ({"p": 0}, "num_virtual_tokens is 0"),
        ({"scale": -1.0}, "scale is -1.0; it must not be below 0"),
    ],
)
def test_refusals(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PrefixError, match=sentence):
        drawn(**{"model": the_model(), "of": [[5, 6, 7]], **change})


def test_a_model_that_cannot_be_asked_how_it_rotates_is_refused() -> None:
    with pytest.raises(PrefixError, match="tokens cannot be moved to the front; start from a text"):
        drawn(indexed.build(BY_PLACE), texts(2, 8))


def test_one_virtual_token_needs_no_second_token_of_a_text() -> None:
    assert len(drawn(the_model(), [[5], [6]], p=1)) == 1
