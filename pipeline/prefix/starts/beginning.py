"""What a tokenizer puts before a text of its own accord: the token that begins a text (BOS)."""

from typing import Any


def tokens_before(tokenizer: Any) -> list[int]:
    """The special tokens before a text, `[<bos>]` or `[]` of decoders.

    What the tokenizer does counts, not what its settings say: `bos_token` is often one that it
    never adds.
    """
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = list(tokenizer.encode("a"))
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens after those that begin it, without any that would end it."""
    return [*tokens_before(tokenizer), *tokenizer.encode(text, add_special_tokens=False)]
