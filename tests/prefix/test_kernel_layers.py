"""A few tokens through layers by the kernel: the numbers of the layers themselves, each its own."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm

from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.packed.kernel.few_tokens import bound, linear
from pipeline.prefix.packed.kernel.few_tokens.bound import most_tokens
from pipeline.prefix.packed.kernel.few_tokens.functions import linear_function
from pipeline.prefix.packed.kernel.few_tokens.layers import kernel_layers
from pipeline.prefix.packed.kernel.loading import kernel_lanes
from pipeline.prefix.packed.running import Beginning, RunningRows, Stem
from tests.prefix.architectures import SETTINGS, build

pytestmark = pytest.mark.skipif(kernel_lanes() is None, reason="there is no C++ compiler here")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
MOST = 6
# Of the norm: in bfloat16 a rounding at another place.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to `MOST` tokens are few, of any dtype that the kernel has."""
    monkeypatch.setattr(bound, "most_tokens", lambda dtype: MOST)


@pytest.mark.parametrize(("size", "outs"), [(576, [192]), (50, [67, 5]), (3, [1]), (64, [130, 9])])
@pytest.mark.parametrize("has_bias", [False, True])
@DTYPES
def test_products_are_rounded_once_and_depend_on_no_other_token(
    size: int, outs: list[int], has_bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    states = torch.randn(17, size).to(dtype)
    layers = [nn.Linear(size, out, bias=has_bias).to(dtype).requires_grad_(False) for out in outs]
    by_kernel = linear_function(layers)
    for i, (layer, found) in enumerate(zip(layers, by_kernel(states), strict=True)):
        bias = None if layer.bias is None else layer.bias.double()
        exact = F.linear(states.double(), layer.weight.double(), bias)
        # bfloat16 has 8 bits; what sums in float32 lose is far below.
        rounding = 0.0 if dtype == torch.float32 else 2**-8
        assert ((found.double() - exact).abs() <= exact.abs() * rounding + size * 1e-6).all()
        for count in range(1, 17):
            torch.testing.assert_close(by_kernel(states[:count])[i], found[:count], rtol=0, atol=0)


@pytest.mark.usefixtures("few")
@DTYPES
def test_layers_are_the_kernel_s_within_it_and_torch_s_again_after_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False)).to(dtype)
    own = model[2].forward
    model[0].forward = moved = lambda states: states
    states, many = torch.randn(1, MOST, 8).to(dtype), torch.randn(MOST + 1, 8).to(dtype)
    with torch.no_grad():
        expected = model(states), model[2](many)
    calls: list[tuple[int, ...]] = []

    def counted(layers: list[nn.Linear]) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        def of(states: torch.Tensor) -> list[torch.Tensor]:
            calls.append(tuple(states.shape))
            return linear_function(layers)(states)

        return of

    monkeypatch.setattr(linear, "linear_function", counted)
    with kernel_layers(model), kernel_layers(model):
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


class Attention(nn.Module):
    """The projections of an attention, asked for in an order of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(16, 12), nn.Linear(16, 8, bias=False)
        self.v_proj, self.o_proj = nn.Linear(16, 8), nn.Linear(16, 16)

    def forward(self, *asked: tuple[str, torch.Tensor]) -> list[torch.Tensor]:
        return [getattr(self, name)(states) for name, states in asked]


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_layers_of_the_same_states_are_computed_at_once_and_of_others_anew() -> None:
    torch.manual_seed(0)
    model, one = Attention(), torch.randn(1, 3, 16)
    other, many = torch.randn(1, 3, 16), torch.randn(1, MOST + 1, 16)
    asked = [("k_proj", one), ("q_proj", one), ("v_proj", one), ("o_proj", one), ("q_proj", other)]
    asked += [("q_proj", one), ("v_proj", many), ("k_proj", one), ("k_proj", one), ("v_proj", one)]
    expected = model(*asked)
    with kernel_layers(model):
        found = model(*asked)
        changed = one.clone()
        before = model.q_proj(changed)
        again = model.q_proj(changed.copy_(other))
    for this, that in zip(found, expected, strict=True):
        torch.testing.assert_close(this, that)
    torch.testing.assert_close(before, expected[1])
    torch.testing.assert_close(again, expected[4])


class Mean(nn.Module):
    """A norm by the mean, which is no RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(24)), 1e-5

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        centred = states.float() - states.float().mean(-1, keepdim=True)
        return (F.rms_norm(centred, (24,), eps=self.eps) * self.weight).to(states.dtype)


NORMS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "Llama": (lambda: LlamaRMSNorm(24, eps=1e-2), True),
    "Gemma": (lambda: Gemma3RMSNorm(24, eps=1e-2), True),
    "torch": (lambda: nn.RMSNorm(24, eps=1e-2), True),
    "of the mean": (Mean, False),
    "LayerNorm": (lambda: nn.LayerNorm(24), False),
    "LayerNorm without a bias": (lambda: nn.LayerNorm(24, bias=False), False),
    "PReLU": (lambda: nn.PReLU(24), False),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", NORMS)
@DTYPES
@torch.no_grad()
def test_rms_norms_however_they_are_written(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made, is_served = NORMS[name]
    norm = made().to(dtype)
    for parameter in norm.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    sizes = torch.tensor([1e-2, 1.0, 100.0])[:, None]
    # Of a token, heads are rows of their own, and need not lie one after another.
    states = torch.randn(1, 4, 3, 24).mul(sizes).to(dtype).transpose(1, 2)
    model = nn.Sequential(nn.Linear(24, 24).to(dtype), norm).eval()
    with kernel_layers(model):
        assert ("forward" in norm.__dict__) is is_served
    if not is_served:
        return
    # A weight that has changed meanwhile is what counts the next time.
    for _ in range(2):
        expected = norm(states)
        with kernel_layers(model):
            off = (norm(states) - expected).float().norm() / expected.float().norm()
        assert off <= CLOSE[dtype] / 10
        for parameter in norm.parameters():
            parameter.add_(torch.randn_like(parameter))


def _mlp(activation: str, has_bias: bool, kind: type[LlamaMLP] = LlamaMLP) -> LlamaMLP:
    settings = {"hidden_size": 40, "intermediate_size": 67, "num_attention_heads": 4}
    torch.manual_seed(0)
    mlp = kind(LlamaConfig(**settings, mlp_bias=has_bias, hidden_act=activation))
    return mlp.requires_grad_(False).eval()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new"])
@pytest.mark.parametrize("has_bias", [False, True])
@DTYPES
@torch.no_grad()
def test_gated_mlps_in_one_call(activation: str, has_bias: bool, dtype: torch.dtype) -> None:
    mlp = _mlp(activation, has_bias).to(dtype)
    states = torch.randn(1, MOST, 40).mul(torch.linspace(0.01, 40, MOST)[:, None]).to(dtype)
    expected, many = mlp(states), mlp(states.repeat(1, 2, 1))
    with kernel_layers(mlp):
        assert "forward" in mlp.__dict__
        found, alone = mlp(states), mlp(states[:, 2:3])
        torch.testing.assert_close(mlp(states.repeat(1, 2, 1)), many, rtol=0, atol=0)
    off = (found - expected).float().norm(dim=-1) / expected.float().norm(dim=-1)
    assert off.max() <= CLOSE[dtype]
    torch.testing.assert_close(found[:, 2:3], alone, rtol=0, atol=0)
    assert "forward" not in mlp.__dict__


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_what_mlps_make_of_numbers_without_an_end_is_what_torch_makes_of_them() -> None:
    for activation in ("silu", "gelu", "gelu_pytorch_tanh"):
        mlp, states = _mlp(activation, has_bias=False), torch.zeros(3, 40)
        states[0], states[1], states[2, 5] = 1e4, -1e4, torch.nan
        expected = mlp(states)
        with kernel_layers(mlp):
            torch.testing.assert_close(mlp(states), expected, equal_nan=True, rtol=1e-4, atol=1e-2)


class Clamped(LlamaMLP):
    """One that does more than its layers' names say."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-1.0, 1.0)


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_an_mlp_that_computes_something_else_is_left_alone() -> None:
    clamped, squared, clipped = (
        _mlp("silu", False, Clamped),
        _mlp("relu2", False),
        _mlp("gelu_10", False),
    )
    watched, seen = _mlp("silu", False), []
    watched.gate_proj.register_forward_hook(lambda *call: seen.append(call))
    hooked = _mlp("silu", False)
    hooked.register_forward_hook(lambda *call: -call[-1])
    states = torch.randn(2, 40) * 30
    for mlp in (clamped, squared, clipped, watched, hooked):
        expected = mlp(states)
        with kernel_layers(mlp):
            assert "forward" not in mlp.__dict__
            torch.testing.assert_close(mlp(states), expected, rtol=1e-5, atol=1e-4)
    assert len(seen) == 2


def _decoded(model: PreTrainedModel, stem: Stem) -> torch.Tensor:
    """Logits of some tokens of two rows."""
    rows = RunningRows(model)
    _, logits = rows.join([Beginning(stem, [5, 9, 30], 4), Beginning(Stem(None), [7], 4)])
    return torch.stack([logits, *(rows.step([40 + i, 11]) for i in range(3))])


@pytest.mark.parametrize("name", SETTINGS)
@torch.inference_mode()
def test_every_architecture_decodes_what_it_decodes_without_the_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = build(name)
    model = PrefixModel(frozen, PrefixConfig(3)).eval()
    if model.why_not_packed(decoding=True, tokens=8) is not None:
        return
    noise = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 3, 1.0, noise))
    stem = Stem(model.kv_prefix())
    found = {}
    for most in (0, MOST):
        monkeypatch.setattr(bound, "most_tokens", lambda dtype, most=most: most)
        found[most] = _decoded(frozen, stem)
    torch.testing.assert_close(found[MOST], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma", "granite"])
@DTYPES
def test_the_layers_of_common_architectures_are_served_whole(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    before = model.config._attn_implementation
    assert _served_layers(model) == 2
    assert model.config._attn_implementation == before


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo2", "exaone4"])
@DTYPES
def test_of_others_the_norms_and_mlps_are_served(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    parts = [part for part in model.modules() if type(part).__name__.endswith(("MLP", "Norm"))]
    assert len(parts) > 6
    with kernel_layers(model):
        assert [type(part).__name__ for part in parts if "forward" not in part.__dict__] == []


class ClampedLayer(LlamaDecoderLayer):
    """One that shows what it does at large states alone."""

    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        return super().forward(*given, **named).clamp(-5.0, 5.0)


def _served_layers(model: PreTrainedModel) -> int:
    with kernel_layers(model):
        return sum("forward" in layer.__dict__ for layer in model.model.layers)


def _changed(**settings: Any) -> PreTrainedModel:
    """A Granite, whose layers are of the common form but for what its configuration says."""
    model = build("granite")
    config = model.config.to_dict() | settings
    torch.manual_seed(0)
    return type(model)(type(model.config)(**config)).eval()


@pytest.mark.usefixtures("few")
@torch.inference_mode()
def test_a_layer_that_does_more_than_its_parts_say_is_no_layer_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its linear layers, norms and MLP are all the same."""
    assert _served_layers(_changed(residual_multiplier=1.0)) == 2
    # Scores have a scale of the attention's own.
    assert _served_layers(_changed(residual_multiplier=1.0, attention_multiplier=0.3)) == 2
    for made in (_changed(residual_multiplier=0.9), _changed(hidden_act="relu")):
        assert _served_layers(made) == 0
    # Of one that has no rotation in every fourth layer.
    assert _served_layers(build("smollm3")) == 1
    watched, seen = build("llama"), []
    watched.model.layers[0].self_attn.register_forward_hook(lambda *call: seen.append(call))
    assert _served_layers(watched) == 1
    clamped = build("llama")
    clamped.model.layers[1].__class__ = ClampedLayer
    assert _served_layers(clamped) == 1
    for model in (_changed(attention_multiplier=0.3), watched, clamped):
        found = {}
        for most in (0, MOST):
            monkeypatch.setattr(bound, "most_tokens", lambda dtype, most=most: most)
            found[most] = _decoded(model, Stem(None))
        torch.testing.assert_close(found[MOST], found[0], rtol=1e-4, atol=1e-5)
    assert len(seen) == 8


@pytest.mark.usefixtures("few")
@torch.inference_mode()
def test_layers_answer_the_model_s_own_generation_as_without_the_kernel() -> None:
    """Caches, masks and several rows are the layers' own to see to."""
    model, ids = build("qwen3"), torch.tensor([[5, 9, 30], [7, 8, 11]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    asked = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids, **asked), model(ids, attention_mask=mask).logits
    with kernel_layers(model):
        found = model.generate(ids, **asked), model(ids, attention_mask=mask).logits
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("few")
@DTYPES
@torch.inference_mode()
def test_a_hook_that_does_nothing_changes_no_bit(dtype: torch.dtype) -> None:
    """Its layer is computed part by part, then, as a padded call before may have it."""
    for name in ("llama", "qwen3"):
        model = build(name, {"hidden_size": 64}).to(dtype)
        found = [_decoded(model, Stem(None))]
        for layer in model.model.layers:
            layer.self_attn.register_forward_pre_hook(lambda *call: None)
        assert _served_layers(model) == 0
        found.append(_decoded(model, Stem(None)))
        torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_modules_are_called_as_they_were() -> None:
    """By keyword, with more arguments, with states of another width, in training."""

    class Scaled(LlamaRMSNorm):
        def forward(self, states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
            normed = super().forward(states)
            return normed if gate is None else normed * gate

    torch.manual_seed(0)
    norm, linear_layer, mlp = Scaled(40).eval(), nn.Linear(40, 8).eval(), _mlp("silu", False)
    states = torch.randn(2, 40)
    asked: list[Callable[[], torch.Tensor]] = [
        lambda: norm(states, states),
        lambda: norm(states, gate=states),
        lambda: norm(states[:, :1]),
        lambda: linear_layer(input=states),
        lambda: mlp(x=states),
    ]
    expected = [ask() for ask in asked]
    with kernel_layers(nn.ModuleList([linear_layer, norm, mlp])):
        assert "forward" in norm.__dict__
        for ask, own in zip(asked, expected, strict=True):
            torch.testing.assert_close(ask(), own)
        with pytest.raises(RuntimeError):
            linear_layer(states[:, :39])
    without = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8)).eval()
    with kernel_layers(without):
        assert "forward" not in without[1].__dict__
    trained = _mlp("silu", False).train()
    with kernel_layers(trained):
        assert "forward" not in trained.__dict__


@pytest.mark.usefixtures("few")
@torch.inference_mode()
def test_the_model_s_own_attention_is_left_to_it() -> None:
    """What no interface has a name for: the layers compute themselves."""
    model, ids = build("llama"), torch.tensor([[5, 9]])
    model.set_attn_implementation("eager")
    expected = model(ids, use_cache=False).logits
    with kernel_layers(model):
        torch.testing.assert_close(model(ids, use_cache=False).logits, expected)


class Tripled(LlamaMLP):
    """What it does beside its layers' names does not show while they are zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 3


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_weights_that_show_nothing_decide_nothing() -> None:
    for kind, is_served in ((LlamaMLP, True), (Tripled, False)):
        mlp = _mlp("silu", False, kind)
        weight, states = mlp.down_proj.weight.clone(), torch.randn(2, 40)
        for shown in (torch.zeros_like(weight), weight * torch.nan):
            mlp.down_proj.weight.copy_(shown)
            with kernel_layers(mlp):
                assert "forward" not in mlp.__dict__
        mlp.down_proj.weight.copy_(weight)
        expected = mlp(states)
        with kernel_layers(mlp):
            assert ("forward" in mlp.__dict__) is is_served
            torch.testing.assert_close(mlp(states), expected)


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_a_setting_that_has_changed_is_tried_again() -> None:
    norm = LlamaRMSNorm(24, eps=1e-6).eval()
    model, states = nn.Sequential(nn.Linear(24, 24), norm).eval(), torch.randn(2, 24) * 0.1
    for epsilon in (1e-6, 0.5):
        norm.variance_epsilon = epsilon
        expected = norm(states)
        with kernel_layers(model):
            torch.testing.assert_close(norm(states), expected)


@pytest.mark.usefixtures("few")
@torch.no_grad()
def test_states_that_are_changed_in_place_are_others() -> None:
    model, states = Attention().eval(), torch.randn(1, 2, 16)
    expected = model.q_proj(states), model.k_proj(states * 2)
    with kernel_layers(model):
        found = model.q_proj(states), model.k_proj(states.mul_(2))
    torch.testing.assert_close(found, expected)


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
    assert most_tokens(torch.float32) == 64
    assert most_tokens(torch.bfloat16) == (12 if has_instructions else 64)
    assert most_tokens(torch.float16) == 0
    model = nn.Linear(8, 8).half()
    with kernel_layers(model):
        assert "forward" not in model.__dict__


@pytest.mark.usefixtures("asked_anew")
def test_a_torch_without_onednn_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    model = nn.Linear(8, 8)
    with kernel_layers(model):
        assert "forward" not in model.__dict__
