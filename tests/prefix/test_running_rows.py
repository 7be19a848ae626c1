"""Rows of several prefixes that join and leave between tokens: the logits of each alone."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.packed.running import Beginning, Row, RunningRows, Stem
from tests.conftest import tiny_model


def _gemma() -> PreTrainedModel:
    """Softcaps, and a window of 12 tokens in every second layer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, sliding_window=12)).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "the kernel's heads": lambda: tiny_model(head_dim=16),
    "odd heads": lambda: tiny_model(head_dim=6),
    "windows and softcaps": _gemma,
}


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_each_row_is_what_it_is_alone(name: str) -> None:
    frozen, draw = MODELS[name](), random.Random(0)
    noise = torch.Generator().manual_seed(0)
    alone: dict[Stem, PrefixModel] = {Stem(None): PrefixModel(frozen)}
    for length in (1, 4, 20):
        model = PrefixModel(frozen, PrefixConfig(length)).eval()
        model.load_kv_prefix(random_kv_prefix(model.kv_shapes, length, 1.0, noise))
        assert model.why_not_packed(decoding=True, tokens=60) is None
        alone[Stem(model.kv_prefix())] = model
    running, texts = RunningRows(frozen), dict[Row, list[int]]()
    seen: set[int] = set()

    def check(rows: list[Row], logits: torch.Tensor) -> None:
        for row, own in zip(rows, logits, strict=True):
            ids = torch.tensor([texts[row]])
            expected: Any = alone[row.stem](input_ids=ids).logits[0, -1]
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)

    for _ in range(25):
        joining = [
            Beginning(stem, [draw.randrange(8, 250) for _ in range(draw.randint(1, 18))], 30)
            for stem in draw.choices(list(alone), k=draw.choice((0, 0, 1, 3)))
        ]
        if joining:
            rows, logits = running.join(joining)
            texts |= {row: list(b.input_ids) for row, b in zip(rows, joining, strict=True)}
            check(rows, logits)
        if running.rows:
            rows = running.rows
            tokens = [draw.randrange(8, 250) for _ in rows]
            for row, token in zip(rows, tokens, strict=True):
                texts[row].append(token)
            check(rows, running.step(tokens))
            running.leave(draw.sample(rows, k=min(len(rows), draw.choice((0, 1, 1, 4)))))
        seen.add(len(running.rows))
    assert len(seen) > 3
    running.leave(running.rows)
    assert running.rows == []
