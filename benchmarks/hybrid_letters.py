"""A tiny hybrid decoder that has learned to copy, reverse and sort letters, to be frozen.

Two layers of linear attention (gated delta rule) and two of full attention, in turn, as in
Qwen3.5. A text is a mark for what to do, letters, an end, and what becomes of them; a prefix or an
adapter later has to say what the mark said, or what no mark ever said. All texts of a batch are of
one length: padding before a text would change a recurrent state.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from benchmarks.letters import END, FIRST, LETTERS, PAD, Batch, fit, told_to

Pair = tuple[list[int], list[int]]


def by_length(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in groups whose texts are of one length, the shortest first."""
    groups: dict[tuple[int, int], list[Pair]] = defaultdict(list)
    for source, target in pairs:
        groups[len(source), len(target)].append((source, target))
    return [groups[lengths] for lengths in sorted(groups)]


def batch_of(pairs: Sequence[Pair]) -> Batch:
    """Texts of one length, labels at what becomes of the letters and the end after it."""
    ids = torch.tensor([[*source, END, *target, END] for source, target in pairs])
    labels = ids.clone()
    labels[:, : len(pairs[0][0]) + 1] = -100
    return {"input_ids": ids, "labels": labels}


def drawn_batch(groups: list[list[Pair]], size: int, draw: random.Random) -> Batch:
    """`size` examples of one group, each group as often as it has examples."""
    group = draw.choices(groups, weights=[len(group) for group in groups])[0]
    return batch_of(draw.sample(group, min(size, len(group))))


def demonstrations(pairs: Sequence[Pair], tokens: int) -> list[int]:
    """The first tokens of examples one after another."""
    text = [token for source, target in pairs for token in (*source, END, *target, END)]
    return text[:tokens]


@torch.inference_mode()
def measured(model: torch.nn.Module, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Loss (nats per target token) and the share of targets that are right in every token.

    Each token is given those before it: what is right throughout is what greedy decoding writes.
    """
    model.eval()
    loss, tokens, exact = 0.0, 0, 0
    for group in by_length(pairs):
        batch = batch_of(group)
        labels = batch["labels"][:, 1:]
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
        loss += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="sum"
            )
        )
        tokens += int((labels != -100).sum())
        exact += int(((logits.argmax(-1) == labels) | (labels == -100)).all(dim=1).sum())
    return loss / tokens, exact / len(pairs)


def configuration(width: int = 64) -> Qwen3_5TextConfig:
    """Of each two layers the first recurs and the second attends."""
    return Qwen3_5TextConfig(
        vocab_size=FIRST + LETTERS,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        layer_types=["linear_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=width // 4,
        linear_value_head_dim=width,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 1.0,
            "mrope_section": [width // 8, 0, 0],
        },
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
    )


def trained_model(steps: int, seed: int = 0, width: int = 64) -> Qwen3_5ForCausalLM:
    """A hybrid of random weights, trained on the marks for `steps` of 64 examples."""
    torch.manual_seed(seed)
    model = Qwen3_5ForCausalLM(configuration(width))
    groups = by_length(told_to(30_000, 1000 * (seed + 1)))
    draw = random.Random(seed)
    fit(model, steps, lambda _: drawn_batch(groups, 64, draw), use_cache=False)
    return model
