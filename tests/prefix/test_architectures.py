"""Every supported architecture: identity, training, checkpointing, generation, PEFT.

`python -m tests.prefix.table` prints the results as a table, a row an architecture.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from tests.conftest import kv_of
from tests.prefix.architectures import SETTINGS, VOCABULARY, build, with_wide_windows

pytestmark = pytest.mark.parametrize("name", SETTINGS)

P = 12


def tokens(count: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCABULARY, (count,), generator=draw)


def prefixed(model: PreTrainedModel, text: torch.Tensor, **config: Any) -> PrefixModel:
    result = PrefixModel(model, PrefixConfig(num_virtual_tokens=len(text), **config)).eval()
    result.load_kv_prefix(kv_prefix_from_tokens(model, text))
    return result


def padded(rows: list[torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[index, at], mask[index, at] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    p=st.integers(1, 14),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    side=st.sampled_from(["left", "right"]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_identity(name: str, p: int, lengths: list[int], side: str, seed: int) -> None:
    model = build(name)
    text = tokens(p, seed)
    rows = [tokens(length, seed + 1 + i) for i, length in enumerate(lengths)]
    batch = padded(rows, side)
    logits = prefixed(model, text)(**batch).logits
    for index, row in enumerate(rows):
        expected = model(input_ids=torch.cat([text, row])[None]).logits[0, p:]
        found = logits[index][batch["attention_mask"][index].bool()]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_generation(name: str) -> None:
    model = build(name)
    text, rows = tokens(P, 0), [tokens(length, length) for length in (9, 5, 1)]
    greedy: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": 10,
        "min_new_tokens": 10,
        "pad_token_id": 3,
    }
    batch = padded(rows, "left")
    found = prefixed(model, text).generate(**batch, **greedy)[:, batch["input_ids"].shape[1] :]
    for index, row in enumerate(rows):
        whole = torch.cat([text, row])[None]
        expected = model.generate(input_ids=whole, **greedy)[0, whole.shape[1] :]
        assert found[index].tolist() == expected.tolist()


def gradient(model: PrefixModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The gradient of the prefix for the loss of a batch, with dropout drawn from one seed."""
    model.zero_grad()
    torch.manual_seed(0)
    logits = model(**batch, use_cache=False).logits
    chosen = batch["attention_mask"].bool()
    logits[chosen].logsumexp(-1).sum().backward()
    (parameter,) = [p for p in model.parameters() if p.requires_grad]
    assert parameter.grad is not None
    return parameter.grad.clone()


def test_training_step(name: str) -> None:
    """The gradient is that of plain transformers given the prefix as a cache."""
    model = build(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    text, row = tokens(P, 0), tokens(7, 1)
    tuned = prefixed(model, text)
    found = gradient(tuned, padded([row], "left"))

    kv = kv_prefix_from_tokens(model, text)
    leaves = [
        (k.requires_grad_(), v.requires_grad_()) for k, v in zip(kv.keys, kv.values, strict=True)
    ]
    cache = DynamicCache([(key[None], value[None]) for key, value in leaves])
    mask = torch.ones(1, P + len(row), dtype=torch.long)
    logits = model(input_ids=row[None], attention_mask=mask, past_key_values=cache).logits
    logits[0].logsumexp(-1).sum().backward()
    expected = KVPrefix(
        tuple(_grad(key) for key, _ in leaves), tuple(_grad(value) for _, value in leaves)
    )
    from pipeline.prefix.parameters.flat import flatten

    assert_close(found, flatten(expected), 1e-4)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=0.1)
    optimizer.step()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_gradient_checkpointing(name: str) -> None:
    model = build(name)
    rows = [tokens(7, 1), tokens(4, 2)]
    tuned = prefixed(model, tokens(P, 0)).train()
    expected = gradient(tuned, padded(rows, "left"))
    tuned.gradient_checkpointing_enable()
    assert_close(gradient(tuned, padded(rows, "left")), expected, 1e-5)


@torch.no_grad()
def test_layer_choice(name: str) -> None:
    """With a prefix on the last layer alone, the first computes what it does without any."""
    model = build(name)
    text, rows = tokens(P, 0), [tokens(7, 1), tokens(4, 2)]
    tuned = prefixed(model, text, layers=(1,))
    assert not kv_of(tuned).keys[1:]
    batch = padded(rows, "left")
    found = tuned(**batch, output_hidden_states=True)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    for index, row in enumerate(rows):
        # Where positions are learned, the input starts at position p with or without a prefix.
        shifted = torch.arange(P, P + len(row))[None]
        extra = {"position_ids": shifted} if takes_positions else {}
        bare = model(input_ids=row[None], output_hidden_states=True, **extra)
        chosen = batch["attention_mask"][index].bool()
        first = found.hidden_states[1][index][chosen]
        torch.testing.assert_close(first, bare.hidden_states[1][0], rtol=0, atol=1e-4)
        assert float((found.logits[index][chosen] - bare.logits[0]).abs().max()) > 1e-4
    longer = tuned.generate(**batch, max_new_tokens=2, min_new_tokens=2, pad_token_id=3)
    assert longer.shape[1] == batch["input_ids"].shape[1] + 2


@torch.no_grad()
def test_always_visible(name: str) -> None:
    """Within a window of the input's size, only the prefix could be out of sight."""
    text, rows = tokens(P, 0), [tokens(7, 1), tokens(4, 2)]
    if name == "gpt_neo":
        with pytest.raises(PrefixError, match="hides distant keys inside its attention"):
            prefixed(build(name), text, prefix_always_visible=True)
        return
    wide = with_wide_windows(name)
    expected = prefixed(wide, text)(**padded(rows, "left")).logits
    # The text's own cache comes from wide windows too, so that only the input's view differs.
    tuned = PrefixModel(
        build(name), PrefixConfig(num_virtual_tokens=P, prefix_always_visible=True)
    ).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(wide, text))
    found = tuned(**padded(rows, "left")).logits
    chosen = padded(rows, "left")["attention_mask"].bool()
    torch.testing.assert_close(found[chosen], expected[chosen], rtol=0, atol=1e-4)


def test_peft_round_trip(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    model = with_wide_windows(name)
    tuned = prefixed(model, tokens(P, 0))
    row = padded([tokens(7, 1), tokens(7, 2)], "left")
    if name == "deepseek_v3":
        with pytest.raises(PrefixError, match="one shape for all keys and values"):
            tuned.save_pretrained(tmp_path)
        return
    with torch.no_grad():
        expected = tuned(**row).logits
        tuned.save_pretrained(tmp_path / "ours")
        theirs = PeftModel.from_pretrained(model, tmp_path / "ours").eval()
        torch.testing.assert_close(theirs(**row).logits, expected, rtol=0, atol=1e-4)
        theirs.save_pretrained(tmp_path / "theirs")
        back = PrefixModel.from_pretrained(with_wide_windows(name), tmp_path / "theirs").eval()
        torch.testing.assert_close(back(**row).logits, expected, rtol=0, atol=1e-4)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Equal to `tolerance` relative to the largest number."""
    assert float(expected.abs().max()) > 0
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert difference < tolerance


def _grad(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad
