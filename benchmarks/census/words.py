"""A tokenizer with a word for each token id, so that a text is exactly the tokens meant."""

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 97


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The word `w17` is token 17; nothing is put before a text."""
    known = {_word(token): token for token in range(VOCABULARY)}
    by_word = Tokenizer(models.WordLevel(known, unk_token=_word(0)))
    by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=by_word, pad_token=_word(0))


def text_of(tokens: torch.Tensor) -> str:
    """The text that has these token ids."""
    return " ".join(map(_word, tokens.tolist()))


def _word(token: int) -> str:
    # Of one length, so that no special token is found within another.
    return f"w{token:02}"
