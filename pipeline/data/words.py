"""Words that each have a label: told apart in a rendered text, and found again among its tokens."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.templates import EmptyRowError
from pipeline.errors import PipelineError

# Each is two words; the first that tells decides.
_PROBES = (("a", "a"), ("x", "b"), ("the", "of"), ("1", "2"))


def words_of(text: str, task: TaskParams) -> list[str]:
    """The words, or labels, of a rendered text: set apart by `task.word_separator`.

    None is any white space; with one, a word may hold other white space, or be empty.
    """
    if task.word_separator is None:
        return text.split()
    return [word.strip() for word in text.split(task.word_separator)]


def words_and_labels(
    shown: str, target: str, task: TaskParams, row: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The words of a row's input and the labels of its target, as many.

    A separator behind the last, which a loop in a template leaves, begins no other.

    Raises PipelineError when they are not, and EmptyRowError for a label without a text.
    """
    words, labels = words_of(shown, task), words_of(target, task)
    behind = len(words) - len(labels)
    if behind >= 0 and words[-1:] == [""] and (behind or labels[-1:] == [""]):
        words.pop()
    if behind <= 0 and labels[-1:] == [""] and len(labels) > len(words):
        labels.pop()
    if len(words) != len(labels) or not words:
        hint = (
            "; a word that holds white space itself needs task.word_separator"
            if task.word_separator is None and len(words) > len(labels)
            else ""
        )
        raise PipelineError(
            f"task: example {row['id']} has {len(words)} words and {len(labels)} labels; for "
            f"token_cls both templates render as many{hint}"
        )
    if "" in labels:
        raise EmptyRowError(
            f"task.target_template: label {labels.index('') + 1} of example {row['id']} is empty"
        )
    return words, labels


def tokens_of_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], row: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """The tokens of words in their order, special tokens included, and where each word begins.

    A word's tokens are those that it has within a text: with byte-level BPE as of GPT-2 or RoBERTa
    it has a space before it, the first word too, as `add_prefix_space=True` has it. It begins at
    its first token that holds more than this space.

    Raises EmptyRowError for a word without such a token, and PipelineError for a tokenizer that
    cannot say which tokens are of which word.
    """
    lead = _lead(tokenizer)
    encoded = tokenizer([lead + word for word in words], is_split_into_words=True)
    ids: list[int] = list(encoded["input_ids"])
    starts: dict[int, int] = {}
    for position, word in enumerate(encoded.word_ids()):
        if word is not None and word not in starts and tokenizer.decode([ids[position]]).strip():
            starts[word] = position
    for index, word in enumerate(words):
        if index not in starts:
            raise EmptyRowError(
                f"task.input_template: the tokenizer has no token for the word {word!r} of "
                f"example {row['id']}"
            )
    return ids, [starts[index] for index in range(len(words))]


def refuse_without_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise PipelineError for a tokenizer that cannot say which word a token is of."""
    if not tokenizer.is_fast:
        raise PipelineError(
            "task.type: token_cls needs a tokenizer that says which word each token is of, which "
            f"this model's {type(tokenizer).__name__} does not; use a model with tokenizer.json"
        )


@lru_cache(maxsize=1)
def _lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """What goes before each word, so that its tokens are those it has within a text."""
    refuse_without_words(tokenizer)

    def ids(text: Any, split: bool = False) -> list[int]:
        encoded = tokenizer(text, is_split_into_words=split, add_special_tokens=False)
        return list(encoded["input_ids"])

    for first, second in _PROBES:
        text = ids(f"{first} {second}")
        if ids([first, second], split=True) == text:
            return ""
        spaced = ids([f" {second}"], split=True)
        if text in (ids([first], split=True) + spaced, ids([f" {first}"], split=True) + spaced):
            return " "
    raise PipelineError(
        "task.type: token_cls needs a tokenizer that takes words one by one as it takes a text, "
        "which the model's does not; use another model"
    )
