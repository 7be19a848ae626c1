"""Packed rows are decoded on any device: the prefix once, the numbers those of each row alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.packed.backends import AUTO, BACKENDS, use_backend, why_not
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.call import kind_of
from pipeline.prefix.packed.efficient import EFFICIENT
from pipeline.prefix.packed.layer_cache import LayerCache, PartsCache
from pipeline.prefix.packed.operators import OPERATORS
from pipeline.prefix.packed.varlen import FLASH
from tests.conftest import tiny_model
from tests.prefix.cuda_operators import on_the_cpu

Tensor = torch.Tensor
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.fixture(autouse=True)
def _unnamed() -> Iterator[None]:
    yield
    use_backend(AUTO)


CACHES: dict[str, Callable[..., LayerCache]] = {
    "kernel": BACKENDS["kernel"].cache,
    "operators": PartsCache.by(OPERATORS),
    "varlen": PartsCache.by(FLASH),
    "efficient": PartsCache.by(EFFICIENT),
}


@pytest.mark.parametrize("p", [None, 1, 70])
@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("dtype", [SINGLE, BRAIN])
def test_decoding_is_plain_attention(name: str, dtype: torch.dtype, p: int | None) -> None:
    """Row by row and token by token, the first row leaving after the second token."""
    draw = torch.Generator().manual_seed(0)
    packed, kept = [5, 9, 2], [4, 9, 1]
    key, value = (torch.randn(2, 16, 16, generator=draw).to(dtype) for _ in range(2))
    if name == "kernel" and why_not(name, kind_of(key, value)) is not None:
        pytest.skip("there is no C++ compiler here")
    prefix: Any = None
    if p is not None:
        prefix = tuple(torch.randn(2, p, 16, generator=draw) for _ in range(2))
    cache: Any = CACHES[name](key, value, packed, kept, [12, 12, 12])
    own = [
        [t[:, :count] for t in pair]
        for *pair, count in zip(key.split(packed, 1), value.split(packed, 1), kept, strict=True)
    ]
    tolerance = 1e-5 if dtype == SINGLE else 2e-2
    with on_the_cpu():
        for rows in ([0, 1, 2], [0, 1, 2], [1, 2]):
            counts = [own[row][0].shape[1] for row in rows]
            heads = (6, 2, 2)
            new: Any = [torch.randn(n, len(rows), 16, generator=draw).to(dtype) for n in heads]
            out = cache.attend(*new, prefix, rows, counts, 0.3)
            for at, row in enumerate(rows):
                states = (
                    torch.cat([t, n[:, [at]]], 1) for t, n in zip(own[row], new[1:], strict=True)
                )
                own[row] = list(states)
                expected = _alone(new[0][:, at], own[row], prefix)
                torch.testing.assert_close(
                    out[:, at].double(), expected, rtol=tolerance, atol=tolerance
                )


def _alone(query: Tensor, own: list[Tensor], prefix: tuple[Tensor, ...] | None) -> Tensor:
    """One token's attention in float64, `[num_heads, dim]`."""
    sides = zip(prefix or own, own, strict=True)
    joined = [torch.cat([far, near] if prefix else [near], 1).double() for far, near in sides]
    keys, values = (t.repeat_interleave(3, 0) for t in joined)
    scores = (query.double().unsqueeze(1) @ keys.transpose(1, 2)) * 0.3
    return (scores.softmax(-1) @ values).squeeze(1)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_packed_rows_are_decoded_without_a_kernel(dtype: torch.dtype) -> None:
    """Heads of 6 numbers, as of a model for which the CPU's kernel is none: the same texts."""
    frozen = tiny_model(head_dim=6).to(dtype)
    model = PrefixModel(frozen, PrefixConfig(4)).eval()
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 4, 0.5, draw))
    assert model.why_not_packed(decoding=True) is None
    ids = [torch.randint(8, 250, (n,), generator=draw).tolist() for n in (9, 5, 12)]
    with torch.inference_mode():
        examples = [{"input_ids": row, "target_start": len(row) - 1} for row in ids]
        found = PackedBatch(model, examples, 8).continuations(8, set())
        for row, text in zip(ids, found, strict=True):
            alone = torch.tensor([row[:-1]])
            whole = model.generate(
                input_ids=alone,
                attention_mask=torch.ones_like(alone),
                max_new_tokens=8,
                min_new_tokens=8,
                do_sample=False,
                pad_token_id=0,
            )
            assert whole[0, len(row) - 1 :].tolist() == text


def test_a_cache_keeps_the_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of tokens, it is moved and laid out for a layer once."""
    use_backend("operators")
    cache: Any = PackedCache([3, 2], 5)
    cache.prefill(0, torch.randn(2, 5, 16), torch.randn(2, 5, 16), [3, 2])
    moved: list[Any] = []

    class Far:
        """A prefix that lies elsewhere."""

        def __init__(self, states: Tensor) -> None:
            self.states = states

        def to(self, other: Tensor) -> Tensor:
            moved.append(other.device)
            return self.states

    prefix: Any = tuple(Far(torch.randn(2, 4, 16)) for _ in range(2))
    for _ in range(4):
        new: Any = [torch.randn(n, 2, 16) for n in (4, 2, 2)]
        cache.attend(0, *new, prefix, 0.3)
        cache.advance()
    assert len(moved) == 2
