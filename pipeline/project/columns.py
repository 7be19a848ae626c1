"""Which column the model reads, and which it is to write: by their names, else by their lengths."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.project.values import ANSWERS, TEXT, TEXTS, TURNS, Column

_TEXTS = (
    *("text", "sentence", "review", "comment", "tweet", "post", "message", "utterance", "content"),
    *("body", "abstract", "description", "document", "email", "title", "headline", "question"),
)
# Names of what is read beside names of what is written, the surest first; in each the best first.
_PAIRS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("question", "query", "problem", "q"),
        ("answer", "answers", "response", "solution", "reply", "a", "sql", "query"),
    ),
    (
        ("user", "human"),
        ("assistant", "gpt", "bot"),
    ),
    (
        ("instruction", "prompt"),
        ("completion", "output", "response", "answer", "chosen", "solution"),
    ),
    (
        ("article", "document", "dialogue", "dialog", "text", "body", "content", "passage"),
        ("highlights", "summary", "abstract", "headline", "tldr"),
    ),
    (
        ("premise", "sentence1", "text1", "question1", *_TEXTS),
        (
            *("label_text", "label_name", "label", "sentiment", "category", "class", "intent"),
            *("emotion", "topic", "rating", "stars", "score"),
        ),
    ),
    (
        ("input", "inputs", "source", "src", "x"),
        ("target", "targets", "output", "outputs", "tgt", "label", "y"),
    ),
)
# What is read with it, before it or after it.
_BEFORE = {
    "question": (
        "context",
        "passage",
        "paragraph",
        "document",
        "record",
        "evidence",
        "table",
        "schema",
    ),
    "query": ("context", "passage", "document"),
}
_AFTER = {
    "question": ("choices", "options"),
    "instruction": ("input", "context"),
    "prompt": ("context", "input"),
    "premise": ("hypothesis",),
    "sentence1": ("sentence2",),
    "text1": ("text2",),
    "question1": ("question2",),
}
_WORDS, _TAGS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels", "chunk_tags")
_NO_CONTENT = re.compile(
    r"(^|_)(id|ids|uid|uuid|guid|idx|index|no|nr|key|url|uri|link|date|time|timestamp|split)$"
)


@dataclass(frozen=True)
class Roles:
    """The columns that are read, in their order, and the one that is written.

    `main` of those read is the one that no row may lack. `why` says how they were told. Of a chat's
    turns one column is both.
    """

    inputs: tuple[Column, ...]
    main: Column
    target: Column
    why: str

    @property
    def is_chat(self) -> bool:
        return self.target.kind == TURNS

    @property
    def is_of_words(self) -> bool:
        """Whether each word has a label of its own."""
        return self.main.kind == self.target.kind == TEXTS and self.target.name in _named_tags(
            [self.main, self.target]
        )


def roles_of(
    columns: Mapping[str, Column], inputs: Sequence[str] = (), target: str | None = None
) -> Roles:
    """Guess what `inputs` and `target` leave open.

    Raises PipelineError for a name that is no column, and when nothing can be guessed.
    """
    for option, name in [*(("--input", name) for name in inputs), ("--target", target)]:
        if name is not None and name not in columns:
            raise PipelineError(f"{option}: '{name}' is no column; there are: {_listed(columns)}")
    if target is not None and target in inputs:
        raise PipelineError(f"--target: '{target}' is --input as well; name another column")
    if inputs and target is not None:
        return _roles([columns[name] for name in inputs], columns[target], "as you named them")
    usable = {n: c for n, c in columns.items() if c.kind in (TEXT, TEXTS, ANSWERS) and c.distinct}
    if not inputs and target is None:
        chats = [column for column in columns.values() if column.kind == TURNS]
        if chats:
            return _roles([chats[0]], chats[0], "it holds turns of a chat")
        if (tagged := _tagged(usable)) is not None:
            return tagged
    found = _by_names(usable, inputs, target) or _by_lengths(usable, inputs, target)
    if found is None:
        raise _cannot_tell(columns, usable)
    return found


def words_of(name: str) -> str:
    """A column's name as lower-case words set apart by `_`: `reviewText` is `review_text`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", parted).strip("_").lower()


def _roles(inputs: Sequence[Column], target: Column, why: str) -> Roles:
    return Roles(tuple(inputs), inputs[-1], target, why)


def _tagged(usable: Mapping[str, Column]) -> Roles | None:
    lists = [column for column in usable.values() if column.kind == TEXTS]
    words = [column for column in lists if words_of(column.name) in _WORDS]
    tags = [column for column in lists if column.name in _named_tags(lists)]
    if not words or not tags:
        return None
    return _roles(words[:1], tags[0], "their names say words and a label for each")


def _named_tags(columns: Iterable[Column]) -> list[str]:
    return [column.name for column in columns if words_of(column.name) in _TAGS]


def _by_names(
    usable: Mapping[str, Column], inputs: Sequence[str], target: str | None
) -> Roles | None:
    named = {name: words_of(name) for name in usable}
    for is_exact in (True, False):
        for reads, writes in _PAIRS:
            main = inputs[-1] if inputs else _first(reads, named, is_exact, but={target})
            told = target or _first(writes, named, is_exact, but={main, *inputs})
            if main is None or told is None or usable.keys().isdisjoint({main, told}):
                continue
            if main not in usable or told not in usable:
                continue
            columns = [usable[name] for name in inputs] or [
                usable[name] for name in _read_with(main, usable, told)
            ]
            return Roles(tuple(columns), usable[main], usable[told], "by their names")
    return None


def _first(
    wanted: Sequence[str], named: Mapping[str, str], is_exact: bool, but: set[str | None]
) -> str | None:
    """The column of the first of the names that one has; else, if not `is_exact`, ends with."""
    forms = ("{}", "{}_text") if is_exact else ("{}", "{}_text", "_{}")
    for form in forms:
        # `option_a` is no answer.
        for word in (word for word in wanted if form == "{}" or len(word) > 1):
            sought = form.format(word)
            for name, own in named.items():
                is_found = own.endswith(sought) if form == "_{}" else own == sought
                if is_found and name not in but:
                    return name
    return None


def _read_with(main: str, usable: Mapping[str, Column], target: str) -> list[str]:
    """The columns that belong to the main one, in the order in which they are read."""
    named = {name: words_of(name) for name in usable}
    kind = next((k for k in (*_BEFORE, *_AFTER) if re.search(rf"(^|_){k}$", named[main])), "")
    others = {
        name: named[name]
        for name, column in usable.items()
        if name not in (main, target) and column.kind in (TEXT, TEXTS)
    }
    before = _first(_BEFORE.get(kind, ()), others, True, but=set())
    after = _first(_AFTER.get(kind, ()), others, True, but=set())
    return [name for name in (before, main, after) if name is not None]


def _by_lengths(
    usable: Mapping[str, Column], inputs: Sequence[str], target: str | None
) -> Roles | None:
    said = [c for c in usable.values() if c.distinct > 1 and not _is_no_content(c)]
    main = usable.get(inputs[-1]) if inputs else None
    told = usable.get(target) if target is not None else None
    if main is told is None and len(said) == 2 and _are_alike(*said):
        why = "by their order: the first is read, the second is written"
        return _roles(said[:1], said[1], why)
    if main is None:
        longest = [column for column in said if column is not told and column.kind != ANSWERS]
        main = max(longest, key=lambda column: column.length, default=None)
    if told is None:
        shortest = [column for column in said if column is not main and column.name not in inputs]
        told = min(shortest, key=lambda column: column.length, default=None)
    if main is None or told is None:
        return None
    columns = [usable[name] for name in inputs if name in usable] or [main]
    why = "by their lengths: the longest is read, the shortest that varies is written"
    return Roles(tuple(columns), main, told, why)


def _are_alike(one: Column, other: Column) -> bool:
    """Whether lengths tell neither from the other, as of a text and its translation."""
    shorter, longer = sorted((one.length, other.length))
    return ANSWERS not in (one.kind, other.kind) and shorter >= 0.5 * longer


def _is_no_content(column: Column) -> bool:
    words = words_of(column.name)
    return not words or column.is_code or _NO_CONTENT.search(words) is not None


def _cannot_tell(columns: Mapping[str, Column], usable: Mapping[str, Column]) -> PipelineError:
    if len(columns) == 1:
        return PipelineError(
            f"--data: it has one column, '{next(iter(columns))}'; a column that the model reads "
            "and one that it is to write are needed, or one with the turns of a chat, each with a "
            "role and a content, or a from and a value"
        )
    what = (
        "cannot tell which column is read and which is written" if usable else "no column is text"
    )
    return PipelineError(
        f"--data: {what} (columns: {_listed(columns)}); name them with --input and --target"
    )


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)
