"""Every way of computing shared-prefix attention gives what a plain softmax gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prefix.packed.backends import backend_for, shared_prefix_attention, why_not_decoded
from pipeline.prefix.packed.call import PackedAttentionCall, StateKind
from pipeline.prefix.packed.flex import attention_by_flex
from pipeline.prefix.packed.kernel import library
from pipeline.prefix.packed.kernel.attention import attention_by_kernel
from pipeline.prefix.packed.operators import attention_by_operators

Tensor = torch.Tensor
Attention = Callable[[PackedAttentionCall], Tensor]
FLOAT32 = StateKind("cpu", frozenset({torch.float32}), frozenset({16}))
HAS_KERNEL = library.why_not_kernel(FLOAT32) is None
needs_kernel = pytest.mark.skipif(not HAS_KERNEL, reason="there is no C++ compiler here")


def plain(call: PackedAttentionCall) -> Tensor:
    """Each example alone, in float64."""
    query, key, value, lengths = call.query, call.key, call.value, call.lengths
    prefix_key, prefix_value = call.prefix_key, call.prefix_value
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
        scores = own_query.double() @ keys.transpose(1, 2) * call.scaling
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


def call_of(states: list[Any], lengths: list[int]) -> PackedAttentionCall:
    query, key, value, prefix_key, prefix_value = states
    return PackedAttentionCall(query, key, value, prefix_key, prefix_value, lengths, 0.3)


def outcome(attention: Attention, states: list[Any], lengths: list[int]) -> list[Tensor]:
    """The output, and the gradients of all states for one that depends on the place."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in states]
    out = attention(call_of(leaves, lengths))
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
    assert backend_for(call_of(states, lengths).kind).attention is attention_by_kernel
    assert_alike(outcome(shared_prefix_attention, states, lengths), outcome(plain, states, lengths))


@settings(max_examples=15, deadline=None)
@given(problems(dims=(6, 12)))
def test_torchs_operators_are_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    states, lengths = problem
    assert backend_for(call_of(states, lengths).kind).attention is attention_by_operators
    assert_alike(outcome(shared_prefix_attention, states, lengths), outcome(plain, states, lengths))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(problems(dims=(16,)))
def test_flex_attention_is_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    """What a GPU runs compiled runs uncompiled on a CPU; there torch has no gradient for it."""
    states, lengths = problem
    call = call_of(states, lengths)
    with torch.no_grad():
        assert_alike([attention_by_flex(call)], [plain(call)])


@needs_kernel
def test_the_kernel_in_half_precision_rounds_as_little_as_it_can() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [40, 3, 90]
    states = [
        torch.randn(heads, n, 64, generator=generator).bfloat16()
        for heads, n in ((6, 133), (2, 133), (2, 133), (2, 33), (2, 33))
    ]
    found = outcome(shared_prefix_attention, states, lengths)
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
            outcomes.append(outcome(shared_prefix_attention, states, [90, 10, 100]))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


def test_without_a_compiler_torchs_operators_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    library._library.cache_clear()
    try:
        assert "needs a C++ compiler" in str(library.why_not_kernel(FLOAT32))
        generator = torch.Generator().manual_seed(0)
        states = [torch.randn(2, 9, 16, generator=generator) for _ in range(5)]
        found = outcome(shared_prefix_attention, states, [4, 5])
        assert_alike(found, outcome(plain, states, [4, 5]))
    finally:
        monkeypatch.undo()
        library._library.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtypes", "dims", "reason"),
    [
        ("mps", {torch.float32}, {16}, "does not serve mps"),
        ("cpu", {torch.float16}, {16}, "takes float32 or bfloat16"),
        ("cpu", {torch.float32, torch.bfloat16}, {16}, "takes float32 or bfloat16"),
        ("cpu", {torch.float32}, {16, 32}, "one head size"),
        pytest.param("cpu", {torch.float32}, {6}, "multiples of", marks=needs_kernel),
    ],
)
def test_states_that_the_kernel_does_not_take(
    device: str, dtypes: set[torch.dtype], dims: set[int], reason: str
) -> None:
    kind = StateKind(device, frozenset(dtypes), frozenset(dims))
    assert reason in str(library.why_not_kernel(kind))
    assert reason in str(why_not_decoded(kind))
    assert backend_for(kind).attention is attention_by_operators


def test_a_gpu_is_flex_attention_s() -> None:
    kind = StateKind("cuda", frozenset({torch.bfloat16}), frozenset({64}))
    assert backend_for(kind).attention is attention_by_flex
    assert "does not serve cuda" in str(why_not_decoded(kind))
