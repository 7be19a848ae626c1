"""The tokens of a text without special ones, of many texts one after another."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """What gives a text's tokens as `tokenizer.encode` does without special tokens.

    Where `encode` only passes a text on to the library `tokenizers`, that is asked directly: half
    of the time of a text of 300 tokens goes into settings that are the same for every text.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    kind = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or any(
        getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name)
        for name in ("encode", "_encode_plus")
    ):
        return encode
    # It leaves the library set to neither cut nor fill up.
    encode("a")
    library = tokenizer.backend_tokenizer
    return lambda text: list(library.encode(text, add_special_tokens=False).ids)
