"""Laws of batching, for any lengths."""

from itertools import islice

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.batching import IGNORED, by_length, of_like_length, pad, training_order

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 200))
def test_by_length_keeps_to_the_budget_and_loses_nothing(lengths: list[int], budget: int) -> None:
    batches = by_length(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@given(LENGTHS, st.floats(0.0, 0.5))
def test_of_like_length_bounds_the_padding(lengths: list[int], waste: float) -> None:
    parts = of_like_length(lengths, waste)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in parts:
        padded = len(part) * max(lengths[i] for i in part)
        assert padded - sum(lengths[i] for i in part) <= waste * padded + 1e-9


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_an_epoch_meets_every_example_once(examples: int, batch_size: int, seed: int) -> None:
    batches = -(-examples // batch_size)
    first, second = (
        list(islice(training_order(examples, batch_size, seed), batches)) for _ in range(2)
    )
    assert first == second
    assert sorted(i for batch in first for i in batch) == list(range(examples))


@given(st.data())
def test_padding_keeps_tokens_and_labels_at_the_right_end(data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(st.lists(st.integers(4, 90), min_size=2, max_size=9), min_size=1, max_size=5)
    )
    examples = [
        {"input_ids": row, "target_start": data.draw(st.integers(1, len(row) - 1))} for row in rows
    ]
    batch = pad(examples, 0, torch.device("cpu"))
    for index, example in enumerate(examples):
        ids, start = example["input_ids"], example["target_start"]
        assert isinstance(ids, list)
        assert isinstance(start, int)
        real = batch.attention_mask[index].bool()
        assert batch.input_ids[index][real].tolist() == ids
        labels = batch.labels[index][real].tolist()
        assert labels == [IGNORED] * start + ids[start:]
