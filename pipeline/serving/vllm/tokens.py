"""Which tokens can stand for a prefix in front of a prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from pipeline.data.chat import Chat
from pipeline.prefix.starts.beginning import tokens_before

_NAMES = ("_token_id", "_token_ids", "_token_index")
# Fewer tell too few prefixes apart.
_ENOUGH = 2


@dataclass(frozen=True)
class Alphabet:
    """Token ids that placeholders are drawn from.

    `is_written`: they are special tokens, which a chat template can write as text; others are for
    prompts of token ids alone.
    """

    ids: Sequence[int]
    is_written: bool


def alphabet_of(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    generation: Mapping[str, Any],
    chat: Chat | None,
) -> Alphabet:
    """Special tokens that no prompt begins with, and that mean nothing to the model's code.

    `generation` are the entries of the model's `generation_config.json`. Tokens that end texts are
    left out too: a repetition penalty counts the prompt's, and would put off the end of every
    answer. Of a tokenizer with too few, which read the same in front of any text, all of the
    model's ordinary ids.
    """
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    taken = {*_named(config.to_dict()), *_named(generation)}
    taken |= {*_own(tokenizer), *tokens_before(tokenizer)}
    vocabulary = int(config.get_text_config().vocab_size)
    sample = "A text." if chat is None else _conversation(chat)
    taken.update(tokenizer.encode(sample, add_special_tokens=False))
    free = sorted(index for index in special - taken if index < vocabulary)
    free = [index for index in free if _reads_back(tokenizer, [index, index], sample)]
    if len(free) >= _ENOUGH and _reads_back(tokenizer, free, sample):
        return Alphabet(free, True)
    return Alphabet([i for i in range(vocabulary) if i not in special | taken], False)


def as_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Special tokens as the text that the tokenizer makes the same tokens of."""
    return "".join(tokenizer.added_tokens_decoder[index].content for index in ids)


def _reads_back(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> bool:
    """Whether special tokens before a text are read as themselves, and change none of its own."""
    plain = tokenizer.encode(text, add_special_tokens=False)
    found = tokenizer.encode(as_text(tokenizer, ids) + text, add_special_tokens=False)
    return list(found) == [*ids, *plain]


def _named(entries: Mapping[Any, Any]) -> Iterator[int]:
    """The token ids that a configuration names: of ends, of images, ..."""
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _named(value)
        elif str(key).endswith(_NAMES):
            listed = value if isinstance(value, list) else [value]
            yield from (index for index in listed if isinstance(index, int))


def _own(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that the tokenizer has a name for (BOS, EOS, padding, ...)."""
    names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    found = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return {index for index in found if index is not None}


def _conversation(chat: Chat) -> str:
    """A conversation with each of the template's own tokens."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return chat.render([*chat.system, *said, {"role": "user", "content": "c"}], True)
