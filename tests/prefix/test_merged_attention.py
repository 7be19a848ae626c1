"""Every way of computing merged attention gives what a plain softmax gives, gradients included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prefix.packed.attention import merged_attention
from pipeline.prefix.packed.flex import flex_attention_to_prefix
from pipeline.prefix.packed.kernel import library as attention_kernel

Tensor = torch.Tensor
HAS_KERNEL = attention_kernel.serves(torch.device("cpu"), torch.float32, 16)
needs_kernel = pytest.mark.skipif(not HAS_KERNEL, reason="there is no C++ compiler here")


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    lengths: list[int],
    scaling: float,
) -> Tensor:
    """Each example alone, in float64."""
    group = query.shape[0] // key.shape[0]
    if prefix_key is None or prefix_value is None:
        prefix_key, prefix_value = key[:, :0], value[:, :0]
    p = prefix_key.shape[1]
    outs = []
    for own_query, own_key, own_value in zip(
        *(t.split(lengths, 1) for t in (query, key, value)), strict=True
    ):
        keys = torch.cat([prefix_key, own_key], 1).repeat_interleave(group, 0).double()
        values = torch.cat([prefix_value, own_value], 1).repeat_interleave(group, 0).double()
        scores = own_query.double() @ keys.transpose(1, 2) * scaling
        seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(p)
        outs.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values)
    return torch.cat(outs, 1)


@st.composite
def problems(draw: st.DrawFn, dims: tuple[int, ...]) -> tuple[list[Any], list[int]]:
    """Queries, keys, values, the prefix (perhaps none), and the lengths of packed examples."""
    lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7]))
    p, dim = draw(st.sampled_from([None, 1, 5, 16, 150])), draw(st.sampled_from(dims))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tokens = sum(lengths)
    states: list[Any] = [
        torch.randn(tokens, heads, dim, generator=generator).transpose(0, 1)
        for heads in (kv_heads * group, kv_heads, kv_heads)
    ]
    for _ in range(2):
        states.append(None if p is None else torch.randn(kv_heads, p, dim, generator=generator))
    return states, lengths


def outcome(
    attention: Callable[..., Tensor], states: list[Any], lengths: list[int]
) -> list[Tensor]:
    """The output, and the gradients of all states for one that depends on the place."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in states]
    out = attention(*leaves, lengths, 0.3)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    given_states = [t for t in leaves if t is not None]
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), given_states)]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-5)


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(problems(dims=(16, 48, 64)))
def test_the_kernel_is_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    states, lengths = problem
    assert attention_kernel.available(*states[:3])
    assert_alike(outcome(merged_attention, states, lengths), outcome(plain, states, lengths))


@settings(max_examples=15, deadline=None)
@given(problems(dims=(6, 12)))
def test_torchs_operators_are_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    states, lengths = problem
    assert not attention_kernel.available(*states[:3])
    assert_alike(outcome(merged_attention, states, lengths), outcome(plain, states, lengths))


@settings(max_examples=8, deadline=None)
@given(problems(dims=(16,)))
def test_flex_attention_is_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    """What a GPU runs compiled runs uncompiled on a CPU; there torch has no gradient for it."""
    states, lengths = problem
    query, key, value, *prefix = states
    with torch.no_grad():
        found, expected = (
            attention(query, key, value, prefix[0], prefix[1], lengths, 0.3)
            for attention in (flex_attention_to_prefix, plain)
        )
    assert_alike([found], [expected])


@needs_kernel
def test_the_kernel_in_half_precision_rounds_as_little_as_it_can() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [40, 3, 90]
    states = [
        torch.randn(heads, n, 64, generator=generator).bfloat16()
        for heads, n in ((6, 133), (2, 133), (2, 133), (2, 33), (2, 33))
    ]
    found = outcome(merged_attention, states, lengths)
    expected = outcome(plain, [t.double() for t in states], lengths)
    for one, other in zip(found, expected, strict=True):
        # Half an ulp of bfloat16 for the result, and as much for the weights on the way.
        assert float((one - other).norm() / other.norm()) < 2**-8


@needs_kernel
def test_the_kernels_bits_do_not_depend_on_the_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randn(heads, n, 32, generator=generator)
        for heads, n in ((6, 200), (3, 200), (3, 200), (3, 40), (3, 40))
    ]
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(outcome(merged_attention, states, [90, 10, 100]))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


def test_without_a_compiler_torchs_operators_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    attention_kernel._library.cache_clear()
    try:
        assert not attention_kernel.serves(torch.device("cpu"), torch.float32, 16)
        generator = torch.Generator().manual_seed(0)
        states = [torch.randn(2, 9, 16, generator=generator) for _ in range(5)]
        found = outcome(merged_attention, states, [4, 5])
        assert_alike(found, outcome(plain, states, [4, 5]))
    finally:
        monkeypatch.undo()
        attention_kernel._library.cache_clear()
