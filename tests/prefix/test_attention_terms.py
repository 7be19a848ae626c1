"""Windows, chunks, softcaps and sinks: every backend computes what their definition says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prefix.packed import backends
from pipeline.prefix.packed.backends import BACKENDS, backend_for, use_backend
from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Terms
from pipeline.prefix.packed.flex import attention_by_flex
from pipeline.prefix.packed.kernel.attention import attention_by_kernel
from pipeline.prefix.packed.kernel.library import why_not_kernel
from pipeline.prefix.packed.operators import attention_by_operators
from pipeline.prefix.packed.sight import Sight
from pipeline.prefix.packed.trial import why_not_tried

Tensor = torch.Tensor
Attention = Callable[[PackedAttentionCall], Tensor]
SCALING = 0.3
LENGTHS, SHAPES = [3, 9], ((4, 12), (2, 12), (2, 12))
ALL = frozenset({"windows", "softcaps", "sinks"})
FLOAT32 = StateKind("cpu", frozenset({torch.float32}), frozenset({16}), ALL)
needs_kernel = pytest.mark.skipif(
    why_not_kernel(FLOAT32) is not None, reason="there is no C++ compiler here"
)


def defined(call: PackedAttentionCall) -> Tensor:
    """Each query by itself, in float64: the keys that it sees by their positions, then a softmax.

    transformers' own masks have `kv > q - window`, and `kv // chunk == q // chunk`.
    """
    group = call.query.shape[0] // call.key.shape[0]
    terms, sight = call.terms, call.terms.sight or Sight()
    far = call.key[:, :0], call.value[:, :0]
    if call.prefix_key is not None and call.prefix_value is not None:
        far = call.prefix_key, call.prefix_value
    places, start = list(sight.places), sight.start
    if terms.sight is None:
        places, start = list(range(far[0].shape[1])), far[0].shape[1]
    outs: list[Tensor] = []
    first = 0
    for length in call.lengths:
        for token in range(length):
            at = start + token
            positions = torch.tensor([*places, *range(start, at + 1)])
            seen = torch.ones_like(positions, dtype=torch.bool)
            if sight.window is not None:
                seen &= positions > at - sight.window
            if sight.chunk is not None:
                seen &= positions // sight.chunk == at // sight.chunk
            if sight.prefix_always_visible:
                seen[: len(places)] = True
            own = slice(first, first + token + 1)
            keys, values = (
                torch.cat([prefix, states[:, own]], 1)[:, seen].repeat_interleave(group, 0).double()
                for prefix, states in zip(far, (call.key, call.value), strict=True)
            )
            scores = (keys @ call.query[:, first + token, :, None].double()).squeeze(2) * SCALING
            if terms.softcap is not None:
                scores = terms.softcap * torch.tanh(scores / terms.softcap)
            if terms.sinks is not None:
                scores = torch.cat([scores, terms.sinks[:, None].double()], 1)
            weights = scores.softmax(1)[:, : keys.shape[1]]
            outs.append((weights.unsqueeze(1) @ values).squeeze(1))
        first += length
    return torch.stack(outs, 1)


def call_of(states: list[Any], lengths: list[int], terms: Terms) -> PackedAttentionCall:
    query, key, value, prefix_key, prefix_value = states
    return PackedAttentionCall(query, key, value, prefix_key, prefix_value, lengths, SCALING, terms)


@st.composite
def problems(draw: st.DrawFn, dims: tuple[int, ...], longest: int = 40) -> PackedAttentionCall:
    """A call with any of the terms, examples shorter and longer than what is seen."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=3))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3]))
    p, dim = draw(st.sampled_from([0, 1, 5, 150])), draw(st.sampled_from(dims))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tokens, heads = sum(lengths), kv_heads * group
    states: list[Any] = [
        torch.randn(tokens, count, dim, generator=generator).transpose(0, 1)
        for count in (heads, kv_heads, kv_heads)
    ]
    shown = draw(st.lists(st.integers(0, p - 1), unique=True).map(sorted)) if p else []
    places = draw(st.sampled_from([range(p), tuple(shown)]))
    prefix: list[Any] = [torch.randn(kv_heads, len(places), dim, generator=generator) for _ in "kv"]
    if not places:
        prefix = [None, None]
    size = st.sampled_from([1, 2, 7, 16, 30, 140, 170])
    kind = draw(st.sampled_from(["none", "window", "window", "chunk"]))
    sight = None
    if kind != "none" or len(places) < p:
        sizes: dict[str, Any] = {} if kind == "none" else {kind: draw(size)}
        sight = Sight(**sizes, start=p, places=places, prefix_always_visible=draw(st.booleans()))
    terms = Terms(
        sight,
        draw(st.sampled_from([None, 0.5, 20.0])),
        torch.randn(heads, generator=generator) if draw(st.booleans()) else None,
    )
    return call_of([*states, *prefix], lengths, terms)


def outcome(attention: Attention, call: PackedAttentionCall) -> list[Tensor]:
    """The output, and the gradients of all states and sinks."""
    names = ("query", "key", "value", "prefix_key", "prefix_value")
    given_states = {name: t for name in names if (t := getattr(call, name)) is not None}
    leaves = {name: t.clone().requires_grad_() for name, t in given_states.items()}
    terms, sinks = call.terms, []
    if terms.sinks is not None:
        sinks = [terms.sinks.clone().requires_grad_()]
        terms = replace(terms, sinks=sinks[0])
    out = attention(replace(call, **leaves, terms=terms))
    weights = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [*leaves.values(), *sinks])]


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-5)


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(problems(dims=(16, 48)))
def test_the_kernel_computes_what_they_mean(call: PackedAttentionCall) -> None:
    assert backend_for(call.kind).attention is attention_by_kernel
    assert_alike(outcome(attention_by_kernel, call), outcome(defined, call))


@settings(max_examples=15, deadline=None)
@given(problems(dims=(6,), longest=20))
def test_torchs_operators_compute_what_they_mean(call: PackedAttentionCall) -> None:
    assert backend_for(call.kind).attention is attention_by_operators
    assert_alike(outcome(attention_by_operators, call), outcome(defined, call))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("sizes", [{"window": 6}, {"chunk": 5}])
def test_flex_attention_computes_what_they_mean(sizes: dict[str, Any]) -> None:
    """Forward: uncompiled, torch has no gradient for it on a CPU."""
    draw = torch.Generator().manual_seed(0)
    states: Any = [
        torch.randn(heads, n, 16, generator=draw) for heads, n in (*SHAPES, (2, 4), (2, 4))
    ]
    sight = Sight(**sizes, start=4, places=range(4))
    terms = Terms(sight, 1.5, torch.randn(4, generator=draw))
    call = call_of(states, LENGTHS, terms)
    with torch.no_grad():
        assert_alike([attention_by_flex(call)], [defined(call)])


@needs_kernel
def test_half_precision_rounds_as_little_as_it_can() -> None:
    draw = torch.Generator().manual_seed(0)
    states: Any = [
        torch.randn(heads, n, 64, generator=draw).bfloat16()
        for heads, n in ((6, 133), (2, 133), (2, 133), (2, 33), (2, 33))
    ]
    sight = Sight(window=30, start=33, places=range(33))
    terms = Terms(sight, 3.0, torch.randn(6, generator=draw))
    call = call_of(states, [40, 3, 90], terms)
    found = outcome(attention_by_kernel, call)
    exact = replace(
        call, query=states[0].double(), key=states[1].double(), value=states[2].double()
    )
    exact = replace(exact, prefix_key=states[3].double(), prefix_value=states[4].double())
    for one, other in zip(found, outcome(defined, exact), strict=True):
        assert float((one - other).norm() / other.norm()) < 2**-8


@pytest.mark.parametrize("name", ["kernel", "operators"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_decoding_computes_what_they_mean(name: str, data: st.DataObject) -> None:
    """The last token of each example, appended to a cache of the others."""
    call = data.draw(problems(dims=(16,)))
    if name == "kernel" and why_not_kernel(call.kind) is not None:
        pytest.skip("there is no C++ compiler here")
    counts = [length - 1 for length in call.lengths]
    last = torch.tensor(call.lengths).cumsum(0) - 1
    states = call.key, call.value, call.lengths, counts, [length + 1 for length in call.lengths]
    cache = BACKENDS[name].cache(*states)
    prefix = None
    if call.prefix_key is not None and call.prefix_value is not None:
        prefix = call.prefix_key, call.prefix_value
    query, key, value = (t[:, last] for t in (call.query, call.key, call.value))
    rows = list(range(len(counts)))
    found = cache.attend(query, key, value, prefix, rows, counts, SCALING, call.terms)
    assert_alike([found], [defined(call)[:, last]])


def test_what_serves_no_terms_says_which() -> None:
    brain = frozenset({torch.bfloat16})
    for name, beyond in (("varlen", ALL), ("efficient", frozenset({"softcaps"}))):
        kind = StateKind("cuda", brain, frozenset({64}), beyond)
        reason = str(backends.why_not(name, kind))
        assert all(term in reason for term in beyond)
        assert BACKENDS[name].why_not(replace(kind, beyond=frozenset())) is None
    assert BACKENDS["flex"].why_not(StateKind("cuda", brain, frozenset({64}), ALL)) is None


@pytest.mark.parametrize("term", sorted(ALL))
def test_a_backend_that_leaves_a_term_out_fails_its_trial(term: str) -> None:
    def forgets(call: PackedAttentionCall) -> Tensor:
        return attention_by_operators(replace(call, terms=Terms()))

    kind = replace(FLOAT32, beyond=frozenset({term}))
    assert "is off by" in str(why_not_tried(forgets, kind))
    assert why_not_tried(attention_by_operators, kind) is None


def test_a_named_backend_is_asked_for_the_terms_too() -> None:
    kind = replace(FLOAT32, head_dims=frozenset({6}))
    use_backend("operators")
    try:
        assert backend_for(kind) is BACKENDS["operators"]
    finally:
        use_backend(backends.AUTO)
