"""How long, how many and how often: small enough that a first result comes within minutes."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.errors import PipelineError
from pipeline.project.frozen_model import ModelChoice
from pipeline.project.splitting import Example
from pipeline.project.task import Task

# Of a training; at 800 tokens a second, the default model on two cores, they take 75 seconds.
_TRAINED_TOKENS = 60_000
_MOST = {"train": 240, "validation": 32, "test": 64, "test_unseen": 64}
_STEPS = 30
_LONGEST, _FREE = 1024, 512
_ROOM = 64  # tokens that a model has beside an example, for a prefix
_TEMPLATE = 64  # tokens of a chat template around an example
_LONGEST_ANSWER = 128
_SHORT = 5  # words
_PIECES = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")


@dataclass(frozen=True)
class Sizes:
    """Keys of several sections, `section.key`, and the sentences of those that were guessed."""

    keys: dict[str, Any]
    guesses: dict[str, str]


def sizes_of(
    splits: Mapping[str, Sequence[Example]], task: Task, model: ModelChoice, corpus: str | None
) -> Sizes:
    """The lengths of examples, answers and prefixes, and how much is trained and measured.

    `corpus` is the text that prefixes start from as well.
    """
    keys: dict[str, Any] = {}
    guesses: dict[str, str] = {}
    _max_length(splits, task, model, keys, guesses)
    kept = _training(splits, task, keys, guesses)
    _prefixes(splits["train"][:kept], task, corpus, keys, guesses)
    _answers(splits, task, keys, guesses)
    return Sizes(keys, guesses)


def estimated_tokens(text: str) -> int:
    """A number of tokens that hardly any tokenizer exceeds: digits and signs one by one.

    Of words of Latin letters a token every three, of other scripts one a byte of UTF-8.
    """
    pieces = _PIECES.findall(text)
    return sum(math.ceil(len(p) / 3) if p.isascii() else len(p.encode()) for p in pieces)


def _training(
    splits: Mapping[str, Sequence[Example]],
    task: Task,
    keys: dict[str, Any],
    guesses: dict[str, str],
) -> int:
    """How much is trained and measured; the number of training examples that are kept."""
    train, limit = splits["train"], keys["task.max_length"]
    lengths = (estimated_tokens(e.input) + estimated_tokens(e.target) for e in train)
    tokens = fmean(min(length + _TEMPLATE, limit) for length in lengths)
    most = {**_MOST, "train": min(_MOST["train"], max(32, int(_TRAINED_TOKENS / tokens)))}
    kept = min(len(train), most["train"])
    batch = 8 if kept >= 32 else 4
    affordable = int(_TRAINED_TOKENS / (tokens * kept))
    epochs: float = max(1, min(10, affordable, math.ceil(_STEPS * batch / kept)))
    steps = math.ceil(kept / batch) * epochs
    guesses["train.epochs"] = f"{steps} steps of {batch} examples; more may be better"
    limits = {name: most[name] for name in splits if len(splits[name]) > most[name]}
    if task.params.is_classification and "train" in limits:
        # A sample could lack a label that another split has.
        epochs = round(kept / len(train), 4)
        guesses["train.epochs"] = f"a first look, {kept} of {len(train)} examples; more is better"
        del limits["train"]
    if limits:
        guesses["data.max_examples"] = (
            "fewer than there are, so that a first result comes soon; leave it out to use all"
        )
    keys |= {"data.max_examples": limits, "train.batch_size": batch, "train.epochs": epochs}
    return kept


def _max_length(
    splits: Mapping[str, Sequence[Example]],
    task: Task,
    model: ModelChoice,
    keys: dict[str, Any],
    guesses: dict[str, str],
) -> None:
    examples = [example for split in splits.values() for example in split]
    count = _counting(examples, task, model)
    lengths = sorted(count(example) for example in examples)
    limit = _LONGEST if model.context is None else min(_LONGEST, model.context - _ROOM)
    needed = 16 * math.ceil((lengths[-1] + 2) / 16)
    keys["task.max_length"] = min(needed, limit)
    how = "measured with the model's tokenizer" if model.folder else "estimated generously"
    guesses["task.max_length"] = f"the longest example has {lengths[-1]} tokens, {how}"
    above = sum(length > limit for length in lengths)
    if not above:
        return
    can_cut = task.keys["messages_column"] is None and task.type != "token_cls"
    is_cut = can_cut and above > len(lengths) // 2
    keys["task.too_long"] = "truncate" if is_cut else "drop"
    what = "lose the beginning of their inputs" if is_cut else "are left out"
    guesses["task.too_long"] = (
        f"{above} of {len(lengths)} examples may have more tokens than task.max_length and then "
        f"{what}; raise it, up to the model's context, where time and memory allow"
    )


def _counting(
    examples: Sequence[Example], task: Task, model: ModelChoice
) -> Callable[[Example], int]:
    """Counts an example's tokens, by the model's own tokenizer where it is here.

    Else a token a byte, which is the most there can be, where that is a limit that costs nothing.
    """
    if model.folder is None:

        def most(example: Example) -> int:
            return len(f"{example.input}{example.target}".encode()) + _TEMPLATE

        if max(map(most, examples)) <= _FREE:
            return most
        return lambda e: estimated_tokens(e.input) + estimated_tokens(e.target) + _TEMPLATE
    from pipeline.data.rendering import Renderer
    from pipeline.models.tokenizer import load_tokenizer

    renderer = Renderer(task.params, load_tokenizer(model.folder))
    if task.params.is_classification:
        return lambda e: len(renderer.tokens(e.input, False)[0]) + len(e.target.split()) + 2
    return lambda e: len(renderer.tokenize({"id": "?", **e.row})["input_ids"])


def _prefixes(
    train: Sequence[Example],
    task: Task,
    corpus: str | None,
    keys: dict[str, Any],
    guesses: dict[str, str],
) -> None:
    # A token has hardly ever more than six characters on average; a text-based start needs as many
    # tokens as it caches, an encoder-decoder's of inputs and of targets.
    sides = ["".join(e.input for e in train), "".join(e.target for e in train)]
    if task.type != "seq2seq_lm":
        sides = ["".join(sides)]
    sides += [] if corpus is None else [corpus]
    fewest = min(map(len, sides)) // 6
    cached = next((n for n in (128, 64, 32, 16, 8) if n <= fewest), 4)
    keys["kv_prefix.max_length"] = cached
    keys["sweep.lengths"] = [min(16, cached)]
    guesses["sweep.lengths"] = (
        "one length for a first pair; add more lengths or starts for more variants"
    )


def _answers(
    splits: Mapping[str, Sequence[Example]],
    task: Task,
    keys: dict[str, Any],
    guesses: dict[str, str],
) -> None:
    if task.params.is_classification:
        keys["evaluate.metrics"] = []
        return
    targets = [example.target for split in splits.values() for example in split]
    longest = max(map(estimated_tokens, targets)) + 4
    keys["evaluate.max_new_tokens"] = min(_LONGEST_ANSWER, 8 * math.ceil(longest / 8))
    words = sorted(len(target.split()) for target in targets)
    is_short = words[int(0.9 * (len(words) - 1))] <= _SHORT
    keys["evaluate.metrics"] = ["exact_match", "token_f1"] if is_short else ["chrf", "rouge_l"]
    # ROUGE knows Latin letters and digits alone.
    if not is_short and sum(t.isascii() for t in targets) < len(targets) // 2:
        keys["evaluate.metrics"] = ["chrf", "bleu"]
    guesses["evaluate.metrics"] = (
        f"most targets have {'at most' if is_short else 'more than'} {_SHORT} words"
    )


def refuse_without_room(sizes: Sizes, model: ModelChoice) -> None:
    """Raise PipelineError for a model whose context leaves no room for an example."""
    if sizes.keys["task.max_length"] < 2:
        raise PipelineError(
            f"--model: '{model.name}' has a context of {model.context} positions, too few for an "
            "example beside a prefix; use another model"
        )
