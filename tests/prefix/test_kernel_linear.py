"""A few tokens through linear layers by the kernel: torch's numbers, each its own."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.packed.kernel import linear
from pipeline.prefix.packed.kernel.library import kernel_lanes, kernel_linear
from pipeline.prefix.packed.kernel.linear import kernel_linears, most_tokens

pytestmark = pytest.mark.skipif(kernel_lanes() is None, reason="there is no C++ compiler here")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
MOST = 6


@pytest.mark.parametrize(("size", "out"), [(576, 192), (50, 67), (3, 1), (64, 130)])
@pytest.mark.parametrize("has_bias", [False, True])
@DTYPES
def test_products_are_rounded_once_and_depend_on_no_other_token(
    size: int, out: int, has_bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(17, size).to(dtype), torch.randn(out, size).to(dtype)
    bias = torch.randn(out).to(dtype) if has_bias else None
    layer = kernel_linear(weight, bias)
    found = layer(states)
    exact = F.linear(states.double(), weight.double(), None if bias is None else bias.double())
    # bfloat16 has 8 bits; what sums in float32 lose is far below.
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + size * 1e-6).all()
    if dtype == torch.float32:
        assert ((found.double() - exact).abs() <= size * 1e-6).all()
    for count in range(1, 17):
        torch.testing.assert_close(layer(states[:count]), found[:count], rtol=0, atol=0)


@DTYPES
def test_layers_are_the_kernel_s_within_it_and_torch_s_again_after_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(linear, "most_tokens", lambda dtype: MOST)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False)).to(dtype)
    own = model[2].forward
    model[0].forward = moved = lambda states: states
    states, many = torch.randn(1, MOST, 8).to(dtype), torch.randn(MOST + 1, 8).to(dtype)
    with torch.no_grad():
        expected = model(states), model[2](many)
    calls: list[tuple[int, ...]] = []

    def counted(*layer: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def of(states: torch.Tensor) -> torch.Tensor:
            calls.append(tuple(states.shape))
            return kernel_linear(*layer)(states)

        return of

    monkeypatch.setattr(linear, "kernel_linear", counted)
    with kernel_linears(model), kernel_linears(model):
        with torch.no_grad():
            torch.testing.assert_close(model(states), expected[0])
            assert calls == [(1, MOST, 8)]
            torch.testing.assert_close(model[2](many), expected[1], rtol=0, atol=0)
        model[2](states).sum().backward()
        # What has a forward of its own keeps it.
        assert model[0].forward is moved
        assert len(calls) == 1
    assert model[2].forward == own
    assert model[2].weight.grad is not None


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """What this processor serves is asked once a process."""
    most_tokens.cache_clear()
    yield
    most_tokens.cache_clear()


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.usefixtures("asked_anew")
def test_the_kernel_serves_a_few_tokens_of_the_dtypes_that_it_has(
    monkeypatch: pytest.MonkeyPatch, has_instructions: bool
) -> None:
    operators = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: has_instructions)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert most_tokens(torch.float32) == 8
    assert most_tokens(torch.bfloat16) == (4 if has_instructions else 64)
    assert most_tokens(torch.float16) == 0
    model = nn.Linear(8, 8).half()
    with kernel_linears(model):
        assert "forward" not in model.__dict__


@pytest.mark.usefixtures("asked_anew")
def test_a_torch_without_onednn_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    model = nn.Linear(8, 8)
    with kernel_linears(model):
        assert "forward" not in model.__dict__
