"""Tokens of rows for tasks other than causal language modelling.

As for that one, `input_ids` holds the input and then, from `target_start` on, the target.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.words import refuse_without_words, tokens_of_words, words_and_labels
from pipeline.errors import PipelineError

Row = Mapping[str, Any]


def input_and_target(
    task: TaskParams,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    shown: str,
    target: str,
    row: Row,
) -> tuple[list[int], list[int], list[int] | None]:
    """Input tokens, target (tokens or label ids), and for `token_cls` each word's first token.

    `shown` and `target` are the row's rendered texts, `labels` all those of training. Raises
    PipelineError for a label that training has not, and for words and labels that do not match, and
    EmptyRowError for a word without a token.
    """
    if task.type == "token_cls":
        words, tags = words_and_labels(shown, target, task, row)
        ids, positions = tokens_of_words(tokenizer, words, row)
        return ids, [_label(labels, tag, row) for tag in tags], positions
    source = list(tokenizer(shown)["input_ids"])
    if task.type == "seq_cls":
        return source, [_label(labels, target, row)], None
    written = list(tokenizer(text_target=target)["input_ids"])
    if written[-1:] != [tokenizer.eos_token_id]:
        written.append(end_of_target(tokenizer))
    return source, written, None


def check_words(task: TaskParams, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise PipelineError for a tokenizer that cannot say which word a token is of."""
    if task.type == "token_cls":
        refuse_without_words(tokenizer)


def end_of_target(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a target. Raises PipelineError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise PipelineError("model: the tokenizer has no end-of-sequence token to end a target")
    return int(tokenizer.eos_token_id)


def _label(labels: Sequence[str], label: str, row: Row) -> int:
    if label not in labels:
        raise PipelineError(
            f"task.target_template: example {row['id']} has the label '{label}', which no training "
            f"example has; known: {', '.join(labels[:10])}"
        )
    return labels.index(label)
