"""Every way of computing shared-prefix attention gives what a plain softmax gives."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prefix.packed.backends import backend_for, shared_prefix_attention
from pipeline.prefix.packed.call import PackedAttentionCall, StateKind
from pipeline.prefix.packed.efficient import attention_by_efficient
from pipeline.prefix.packed.flex import attention_by_flex
from pipeline.prefix.packed.kernel import compiling, library, loading
from pipeline.prefix.packed.kernel.attention import attention_by_kernel
from pipeline.prefix.packed.kernel.decoding import KernelRow, KernelRows
from pipeline.prefix.packed.operators import attention_by_operators
from pipeline.prefix.packed.varlen import attention_by_varlen
from tests.prefix.cuda_operators import on_the_cpu

Tensor = torch.Tensor
Attention = Callable[[PackedAttentionCall], Tensor]
FLOAT32 = StateKind("cpu", frozenset({torch.float32}), frozenset({16}))
HAS_KERNEL = library.why_not_kernel(FLOAT32) is None
pytestmark = pytest.mark.float64
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


def query_by_query(call: PackedAttentionCall) -> Tensor:
    """Each query beside the keys that it sees, and no others, in float32."""
    assert call.prefix_key is not None
    assert call.prefix_value is not None
    group, outs = call.query.shape[0] // call.key.shape[0], []
    for query, key, value in zip(
        *(t.float().split(call.lengths, 1) for t in (call.query, call.key, call.value)),
        strict=True,
    ):
        keys, values = (
            torch.cat(pair, 1).repeat_interleave(group, 0)
            for pair in ((call.prefix_key, key), (call.prefix_value, value))
        )
        for place in range(query.shape[1]):
            seen = call.prefix_key.shape[1] + place + 1
            scores = query[:, place, None] @ keys[:, :seen].transpose(1, 2) * call.scaling
            outs.append(scores.softmax(-1) @ values[:, :seen])
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


@pytest.mark.of_the_cpu
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


@pytest.fixture(scope="module")
def cuda_operators() -> Iterator[None]:
    with on_the_cpu():
        yield


@pytest.mark.of_the_cpu
@pytest.mark.parametrize("attention", [attention_by_varlen, attention_by_efficient])
@pytest.mark.usefixtures("cuda_operators")
@settings(max_examples=25, deadline=None)
@given(problem=problems(dims=(16, 64)))
def test_a_gpus_kernels_are_plain_attention(
    attention: Attention, problem: tuple[list[Any], list[int]]
) -> None:
    """All around them, with stand-ins that take a CPU's tensors in the layouts of a GPU's."""
    states, lengths = problem
    assert_alike(outcome(attention, states, lengths), outcome(plain, states, lengths))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(problems(dims=(16,)))
def test_flex_attention_is_plain_attention(problem: tuple[list[Any], list[int]]) -> None:
    """What a GPU runs compiled runs uncompiled on a CPU; there torch has no gradient for it."""
    states, lengths = problem
    call = call_of(states, lengths)
    with torch.no_grad():
        assert_alike([attention_by_flex(call)], [plain(call)])


@pytest.mark.of_the_cpu
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


@pytest.mark.of_the_cpu
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


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("bits", [0x7FC00000, -1])
def test_a_nan_goes_where_torchs_operators_let_it_go(
    dtype: torch.dtype, which: int, bits: int
) -> None:
    """In any of the states and with any bits, forward and backward: divergence stays visible."""
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randn(heads, n, 16, generator=generator).to(kind)
        for heads, n, kind in (
            *((4, 40, dtype), (2, 40, dtype), (2, 40, dtype)),
            *((2, 5, torch.float32), (2, 5, torch.float32)),
        )
    ]
    nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    states[which][1, 3, 2] = nan
    found = outcome(attention_by_kernel, states, [25, 15])
    least = outcome(query_by_query, states, [25, 15])
    most = outcome(attention_by_operators, states, [25, 15])
    assert bool(least[0].isnan().any())
    # How far it gets beyond, by way of weights of zero, goes by the width of a CPU's vectors.
    for one, needed, allowed in zip(found, least, most, strict=True):
        assert bool((one.isnan() | ~needed.isnan()).all())
        assert bool((allowed.isnan() | ~one.isnan()).all())


@pytest.mark.parametrize(
    "attention",
    [
        attention_by_operators,
        pytest.param(attention_by_kernel, marks=[needs_kernel, pytest.mark.of_the_cpu]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", range(5))
def test_what_is_nan_throughout_is_nan_throughout(
    attention: Attention, dtype: torch.dtype, which: int
) -> None:
    """As diverged parameters are: torch's own kernel makes zeros of few scores that are NaN."""
    generator = torch.Generator().manual_seed(0)
    states = [
        torch.randn(heads, n, 16, generator=generator).to(dtype)
        for heads, n in ((4, 40), (2, 40), (2, 40), (2, 5), (2, 5))
    ]
    states[which].fill_(torch.nan)
    out, *gradients = outcome(attention, states, [25, 15])
    assert bool(out.isnan().all())
    assert bool(gradients[0].isnan().all())


@needs_kernel
@pytest.mark.parametrize("which", range(5))
def test_a_nan_is_not_lost_in_decoding(which: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 16), (2, 5, 16), (2, 5, 16), (2, 2, 16, 16), (2, 2, 16, 16)]
    states = [torch.randn(*shape, generator=generator) for shape in shapes]
    # The first row's, where it has one of its own.
    states[which][(0, 0, 0) if which < 3 else (0, 0, 0, 0)] = torch.nan
    query, prefix_key, prefix_value, keys, values = states
    prefix = library.KernelPrefix(query, prefix_key, prefix_value)
    cached = [
        KernelRow(key[:, :count], value[:, :count], 16)
        for key, value, count in zip(keys, values, (6, 2), strict=True)
    ]
    new = torch.randn(2, 2, 2, 16, generator=generator)
    rows = KernelRows(cached)
    where = rows.addresses, rows.rooms, [6, 2]
    out = library.attention_to_cache(query, new[0], new[1], prefix, *where, 0.3)
    assert bool(out[0, 0].isnan().any())
    assert bool(out[0, 1].isnan().any()) is (which in (1, 2))
    assert not out[2:].isnan().any()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A user's cache folder of this test's own, and a process that has loaded no kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loading.kernel_library.cache_clear()
    yield tmp_path / "prefix-tuning"
    monkeypatch.undo()
    loading.kernel_library.cache_clear()


def kernel_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel of this machine in the cache folder; compiled once for all of these tests."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert library.why_not_kernel(FLOAT32) is None
    (kept,) = compiling.cache_folder().glob(f"attention-{compiling._digest(compiler())}-*.so")  # type: ignore[union-attr]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    loading.kernel_library.cache_clear()
    cache.mkdir()
    return Path(shutil.copy(kept, cache))


def compiler() -> str:
    return next(filter(None, map(shutil.which, loading._COMPILERS)))


def right(path: Path) -> bool:
    """Whether the file is the whole library: its name says what is in it."""
    return path.stem.endswith(compiling._content(path))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of compilations, which make a copy of a kernel that is there."""
    commands: list[list[str]] = []
    run = subprocess.run

    def running(command: list[str], **how: Any) -> Any:
        if "-shared" not in command:
            return run(command, **how)
        commands.append(command)
        shutil.copy(ready, command[command.index("-o") + 1])
        return subprocess.CompletedProcess(command, 0)

    assert library.why_not_kernel(FLOAT32) is None
    ready = Path(loading.kernel_library()._name)
    monkeypatch.setattr(compiling.subprocess, "run", running)
    return commands


@pytest.mark.of_the_cpu
@needs_kernel
@pytest.mark.parametrize("cut", [0, 1000, -1])
def test_a_kernel_file_that_was_cut_short_is_compiled_again(
    compiled: list[list[str]], cache: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kernel_file(cache, monkeypatch)
    path.write_bytes(path.read_bytes()[:cut])
    assert library.why_not_kernel(FLOAT32) is None
    assert len(compiled) == 1
    assert right(path)
    loading.kernel_library.cache_clear()
    assert library.why_not_kernel(FLOAT32) is None
    assert len(compiled) == 1, "the mended file is kept"
    assert [file.name for file in cache.iterdir()] == [path.name]


@pytest.mark.of_the_cpu
@needs_kernel
@pytest.mark.parametrize("where", ["no home", "a file", "not to be written", "not to be seen"])
def test_without_a_folder_to_keep_it_in_the_kernel_serves_all_the_same(
    compiled: list[list[str]], cache: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", _no_home)
    elif where == "a file":
        cache.write_text("in the way")
    elif where == "not to be seen":
        # Permissions hold nobody who is root; too long a name is refused as they refuse.
        monkeypatch.setenv("XDG_CACHE_HOME", "/a" * 3000)
    else:
        monkeypatch.setattr(tempfile, "mkstemp", _refused)
    with pytest.warns(UserWarning, match="cannot be kept .* set XDG_CACHE_HOME to a folder"):
        assert library.why_not_kernel(FLOAT32) is None
    assert len(compiled) == 1
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 9, 16, generator=generator) for _ in range(5)]
    assert_alike(outcome(attention_by_kernel, states, [4, 5]), outcome(plain, states, [4, 5]))


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def _refused(*_: object, **__: object) -> None:
    raise PermissionError("Permission denied")


@needs_kernel
def test_a_relative_cache_folder_is_not_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG standard has it ignored; a library must not lie in whatever folder one is in."""
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/somewhere")
    assert compiling.cache_folder() == Path("/somewhere/.cache/prefix-tuning")


@needs_kernel
def test_what_the_compiler_says_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_FLAGS", ("-std=c++17", "--no-such-flag"))
    reason = str(library.why_not_kernel(FLOAT32))
    assert "needs a C++ compiler that works" in reason
    assert "no-such-flag" in reason
    assert not cache.exists()


def test_without_a_compiler_torchs_operators_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    loading.kernel_library.cache_clear()
    try:
        assert "needs a C++ compiler" in str(library.why_not_kernel(FLOAT32))
        generator = torch.Generator().manual_seed(0)
        states = [torch.randn(2, 9, 16, generator=generator) for _ in range(5)]
        found = outcome(shared_prefix_attention, states, [4, 5])
        assert_alike(found, outcome(plain, states, [4, 5]))
    finally:
        monkeypatch.undo()
        loading.kernel_library.cache_clear()


@pytest.mark.of_the_cpu
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
    assert backend_for(kind).attention is attention_by_operators
