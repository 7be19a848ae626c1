"""A few tokens in bfloat16 through linear layers by the kernel: torch's numbers, each its own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.packed.kernel import linear
from pipeline.prefix.packed.kernel.library import kernel_lanes, kernel_linear
from pipeline.prefix.packed.kernel.linear import MOST, kernel_linears

pytestmark = pytest.mark.skipif(kernel_lanes() is None, reason="there is no C++ compiler here")

BRAIN = torch.bfloat16


@pytest.mark.parametrize(("size", "out"), [(576, 192), (50, 67), (3, 1), (64, 130)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_rounded_once_and_depend_on_no_other_token(
    size: int, out: int, has_bias: bool
) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(9, size).to(BRAIN), torch.randn(out, size).to(BRAIN)
    bias = torch.randn(out).to(BRAIN) if has_bias else None
    found = kernel_linear(states, weight, bias)
    exact = F.linear(states.double(), weight.double(), None if bias is None else bias.double())
    # bfloat16 has 8 bits; what sums in float32 lose is far below.
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + size * 1e-6).all()
    for count in (1, 2, 4, 5):
        torch.testing.assert_close(
            kernel_linear(states[:count], weight, bias), found[:count], rtol=0, atol=0
        )


def test_layers_are_the_kernel_s_within_it_and_torch_s_again_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "_gains", lambda: True)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False)).to(BRAIN)
    own = model[2].forward
    model[0].forward = moved = lambda states: states
    states, many = torch.randn(1, 2, 8).to(BRAIN), torch.randn(MOST + 1, 8).to(BRAIN)
    with torch.no_grad():
        expected = model(states), model[2](many)
    calls: list[int] = []

    def counted(*given: torch.Tensor) -> torch.Tensor:
        calls.append(len(given[0]))
        return kernel_linear(*given)

    monkeypatch.setattr(linear, "kernel_linear", counted)
    with kernel_linears(model), kernel_linears(model):
        with torch.no_grad():
            torch.testing.assert_close(model(states), expected[0])
            assert calls == [1]
            torch.testing.assert_close(model[2](many), expected[1], rtol=0, atol=0)
        model[2](states).sum().backward()
        # What has a forward of its own keeps it.
        assert model[0].forward is moved
        assert calls == [1]
    assert model[2].forward == own
    assert model[2].weight.grad is not None


def test_nothing_changes_where_torch_has_a_product_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "_gains", lambda: False)
    model = nn.Linear(8, 8).to(BRAIN)
    with kernel_linears(model):
        assert "forward" not in model.__dict__


def test_a_torch_without_onednn_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    linear._gains.cache_clear()
    model = nn.Linear(8, 8).to(BRAIN)
    try:
        with kernel_linears(model):
            assert "forward" not in model.__dict__
    finally:
        linear._gains.cache_clear()
