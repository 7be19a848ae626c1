"""A tiny encoder-decoder that has learned to copy, reverse and sort letters, to be frozen.

No pretrained encoder-decoder can be had from a package index: this one is trained in half a minute
until it does what it is told. A source is a mark for what to do, then letters; a prefix later has
to say what the mark said, or what no mark ever said.
"""

import random
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

PAD, END, COPY, REVERSE, SORT, UNMARKED = range(6)
FIRST = 6
LETTERS = 12

Rule = Callable[[list[int]], list[int]]
TOLD: dict[int, Rule] = {
    COPY: lambda letters: letters,
    REVERSE: lambda letters: letters[::-1],
    SORT: sorted,
}
Batch = dict[str, torch.Tensor]


def draw_letters(draw: random.Random) -> list[int]:
    """3 to 7 letters."""
    return [FIRST + draw.randrange(LETTERS) for _ in range(draw.randint(3, 7))]


def batch_of(pairs: list[tuple[list[int], list[int]]]) -> Batch:
    """Sources and targets, an end after each, padded on the right."""

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        width = max(map(len, rows)) + 1
        return torch.tensor([[*row, END, *[value] * (width - len(row) - 1)] for row in rows])

    ids = padded([source for source, _ in pairs], PAD)
    labels = padded([target for _, target in pairs], -100)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def examples(mark: int, rule: Rule, count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of source and target for one thing to do."""
    draw = random.Random(seed)
    drawn = [draw_letters(draw) for _ in range(count)]
    return [([mark, *letters], list(rule(letters))) for letters in drawn]


def told_to(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of every thing that a mark tells, mixed."""
    each = [examples(mark, rule, count // len(TOLD), seed + mark) for mark, rule in TOLD.items()]
    return [pair for group in each for pair in group]


def exact_share(model: torch.nn.Module, pairs: list[tuple[list[int], list[int]]]) -> float:
    """The share of targets that the model writes to the letter, each token given those before."""
    batch = batch_of(pairs)
    model.eval()
    with torch.inference_mode():
        found = model(**batch).logits.argmax(-1)
    right = (found == batch["labels"]) | (batch["labels"] == -100)
    return float(right.all(dim=1).float().mean())


def trained_model(
    steps: int, seed: int = 0, width: int = 64, layers: int = 2
) -> T5ForConditionalGeneration:
    """A T5 of random weights, trained on the marks for `steps` of 64 examples."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=FIRST + LETTERS,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_heads=4,
        num_layers=layers,
        num_decoder_layers=layers,
        dropout_rate=0.0,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=16,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=PAD,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    model = T5ForConditionalGeneration(config)
    fit(model, steps, lambda step: batch_of(told_to(63, 1000 * (seed + 1) + 7 * step)))
    return model


def fit(
    model: PreTrainedModel, steps: int, batch_of_step: Callable[[int], Batch], **how: bool
) -> None:
    """Train all weights of a model on a batch a step; it ends in evaluation mode.

    `how` are further keywords of its forward pass.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        loss = model(**batch_of_step(step), **how).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
