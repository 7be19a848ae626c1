"""One place chooses how attention is computed: what is tried, and what is said."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from pipeline.config.hardware import Attention as Names
from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel
from pipeline.prefix.packed import backends
from pipeline.prefix.packed.backends import AUTO, BACKENDS, backend_for, use_backend
from pipeline.prefix.packed.call import PackedAttentionCall, StateKind
from pipeline.prefix.packed.efficient import attention_by_efficient
from pipeline.prefix.packed.operators import attention_by_operators
from pipeline.prefix.packed.trial import why_not_tried
from pipeline.prefix.packed.varlen import FLASH, attention_by_varlen
from tests.conftest import tiny_model
from tests.prefix.cuda_operators import on_the_cpu

Tensor = torch.Tensor
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


def kind(device: str, dtype: torch.dtype, *dims: int) -> StateKind:
    return StateKind(device, frozenset({dtype}), frozenset(dims))


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nothing was named, tried or told."""
    for name, value in (("_named", AUTO), ("_told", set()), ("_failed", {})):
        monkeypatch.setattr(backends, name, value)
    backends._why_not_tried.cache_clear()
    yield
    backends._why_not_tried.cache_clear()


def chosen(of: StateKind) -> str:
    backend = backend_for(of)
    return next(name for name, row in BACKENDS.items() if row is backend)


def test_params_name_the_rows_of_the_table() -> None:
    assert get_args(Names) == (AUTO, *BACKENDS)


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (kind("cuda", BRAIN, 64), "varlen"),
        (kind("cuda", HALF, 128), "varlen"),
        (kind("cuda", BRAIN, 256), "varlen"),
        (kind("cuda", SINGLE, 64), "efficient"),
        (kind("cuda", BRAIN, 320), "efficient"),
        (kind("cuda", SINGLE, 20), "flex"),
        (kind("cuda", torch.float64, 64), "flex"),
        (kind("cuda", BRAIN, 64, 128), "operators"),
        (kind("mps", BRAIN, 64), "operators"),
        (kind("cpu", HALF, 64), "operators"),
        (kind("cpu", SINGLE, 6), "operators"),
    ],
)
def test_what_auto_prefers(of: StateKind, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: of the rows that take the states, where every trial ends well."""
    monkeypatch.setattr(backends, "why_not_tried", lambda *_: None)
    assert chosen(of) == name


def test_on_a_machine_without_a_gpu_its_kernels_fail_the_trial() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name in ("varlen", "efficient", "flex"):
        assert "raised" in str(backends.why_not(name, kind("cuda", BRAIN, 64)))


@pytest.mark.parametrize("dtype", [SINGLE, BRAIN, HALF])
@pytest.mark.parametrize("attention", [attention_by_varlen, attention_by_efficient])
def test_the_trial_lets_right_kernels_pass(
    attention: Callable[[PackedAttentionCall], Tensor], dtype: torch.dtype
) -> None:
    with on_the_cpu(), torch.inference_mode():
        state = torch.get_rng_state()
        assert why_not_tried(attention, kind("cpu", dtype, 64)) is None
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [SINGLE, BRAIN, HALF])
def test_the_trial_sees_what_is_slightly_wrong(dtype: torch.dtype) -> None:
    def scaled(call: PackedAttentionCall) -> Tensor:
        return attention_by_operators(replace(call, scaling=1.1 * call.scaling))

    def without_the_first_virtual_token(call: PackedAttentionCall) -> Tensor:
        prefix = call.prefix_key, call.prefix_value
        key, value = (None if t is None else t[:, 1:] for t in prefix)
        return attention_by_operators(replace(call, prefix_key=key, prefix_value=value))

    for wrong in (scaled, without_the_first_virtual_token):
        assert "is off by" in str(why_not_tried(wrong, kind("cpu", dtype, 64)))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `varlen` takes everything and fails."""

    def fails(_: PackedAttentionCall) -> Tensor:
        raise RuntimeError("no kernel image is available\nand more")

    row = replace(BACKENDS["varlen"], why_not=lambda _: None, attention=fails)
    rows = {"varlen": row, "operators": BACKENDS["operators"]}
    monkeypatch.setattr(backends, "BACKENDS", rows)


@pytest.mark.usefixtures("broken")
def test_what_fails_is_told_once_and_replaced() -> None:
    of = kind("cpu", SINGLE, 16)
    sentence = (
        "attention: 'varlen' fails on this machine and another way computes instead; "
        "it raised RuntimeError: no kernel image is available"
    )
    with pytest.warns(UserWarning, match="fails on this machine") as told:
        assert backend_for(of) is BACKENDS["operators"]
    assert [str(one.message) for one in told] == [sentence]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend_for(of) is BACKENDS["operators"]


@pytest.mark.usefixtures("broken")
@pytest.mark.filterwarnings("ignore:attention")
def test_what_is_named_and_fails_is_one_error() -> None:
    use_backend("varlen")
    with pytest.raises(PrefixError, match=r"^attention: 'varlen' does not serve here: it raised "):
        backend_for(kind("cpu", SINGLE, 16))
    # Whether an architecture can be packed is another question, asked on a CPU.
    model = PrefixModel(tiny_model(rope_theta=99.0), PrefixConfig(4))
    assert model.why_not_packed() is None
    with pytest.raises(PrefixError, match="use auto"):
        model.packed_logits(torch.tensor([5, 6]), [2], torch.tensor([1]))


def test_what_is_named_is_used() -> None:
    use_backend("operators")
    assert chosen(kind("cpu", SINGLE, 16)) == "operators"
    with pytest.raises(PrefixError, match="'magic' is unknown; use auto, kernel, varlen"):
        use_backend("magic")
    use_backend("flex")
    with pytest.raises(PrefixError, match="does not serve here: FlexAttention is slow on cpu"):
        backend_for(kind("cpu", SINGLE, 16))


def test_a_compiler_that_fails_at_a_size_beyond_the_trials_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def compiles_short_rows(call: PackedAttentionCall) -> Tensor:
        if call.query.shape[1] > 200:
            raise TorchDynamoException("ran out of registers")
        return attention_by_operators(call)

    row = replace(BACKENDS["flex"], why_not=lambda _: None, attention=compiles_short_rows)
    rows = {"flex": row, "operators": BACKENDS["operators"]}
    monkeypatch.setattr(backends, "BACKENDS", rows)
    query, key, value = (torch.randn(2, 201, 16) for _ in range(3))
    call = PackedAttentionCall(query, key, value, None, None, [201], 0.3)
    with pytest.warns(UserWarning, match="'flex' fails on this machine .* ran out of registers"):
        out = backends.shared_prefix_attention(call)
    assert torch.equal(out, attention_by_operators(call))


def test_torchs_own_rules_of_shapes_let_the_calls_pass() -> None:
    """Those of the operators themselves, for tensors without numbers: no stand-in has a say."""
    shapes = (8, 90), (2, 90), (2, 90)
    states: Any = [torch.empty(*shape, 64, dtype=BRAIN, device="meta") for shape in shapes]
    prefix: Any = [torch.empty(2, 20, 64, device="meta") for _ in range(2)]
    lengths = [3, 80, 7]
    flash: Any = FLASH
    out, lse = flash.within(*states, lengths, 0.3)
    far, far_lse = flash.to_prefix(states[0], *prefix, 0.3)
    assert out.shape == far.shape == (8, 90, 64)
    assert lse.shape == far_lse.shape == (8, 90)
    assert lse.dtype == far_lse.dtype == SINGLE
    near_grads = flash.within_backward(out, *states, out, lse, lengths, 0.3)
    far_grads = flash.to_prefix_backward(out, states[0], *prefix, out, lse, 0.3)
    assert [g.shape for g in near_grads] == [t.shape for t in states]
    assert [g.shape for g in far_grads] == [t.shape for t in (states[0], *prefix)]
    assert [g.dtype for g in far_grads] == [BRAIN, SINGLE, SINGLE]
