"""Words that have a label each have the tokens that they have within a text."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CanineTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from pipeline.config import load_params
from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from pipeline.data.splits import load_split
from pipeline.data.task_type import task_of
from pipeline.data.templates import EmptyRowError
from pipeline.data.words import tokens_of_words, words_and_labels
from pipeline.errors import PipelineError
from pipeline.stages import fetch_data, tokenize
from tests.conftest import tiny_tokenizer
from tests.faults.training_folder import faulty_params, make_training_folder, write_params

ROW = {"id": "7"}
WORDS = ["He", "lives", "in", "New", "York", ".", "don't", "2020", "naïve", "He"]
TEXT = ["He lives in New York . He lives in New York ! don't 2020 naïve lives He"] * 20
# As Llama 3 splits a text: the digits of a number apart from the space before it.
LLAMA_3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def bpe(pre_tokenizer: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


@cache
def merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)).to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def gpt2(**settings: Any) -> PreTrainedTokenizerBase:
    vocab, pairs = merges()
    return GPT2Tokenizer(vocab=vocab, merges=pairs, **settings)


def roberta(**settings: Any) -> PreTrainedTokenizerBase:
    vocab, pairs = merges()
    return RobertaTokenizer(vocab=vocab, merges=pairs, **settings)


def llama_3() -> PreTrainedTokenizerBase:
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe(pre_tokenizers.Sequence([split, bytes_])))


def bert() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[UNK]", "[PAD]"]
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=60, special_tokens=specials, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def sentencepiece(scheme: str) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def llama_2() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(prepend)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "GPT-2": gpt2,
    "GPT-2, add_prefix_space": lambda: gpt2(add_prefix_space=True),
    "RoBERTa": roberta,
    "RoBERTa, add_prefix_space": lambda: roberta(add_prefix_space=True),
    "Llama 3": llama_3,
    "single bytes": tiny_tokenizer,
    "BERT": bert,
    "SentencePiece, always": lambda: sentencepiece("always"),
    "SentencePiece, first": lambda: sentencepiece("first"),
    "SentencePiece, never": lambda: sentencepiece("never"),
    "Llama 2": llama_2,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_have_the_tokens_that_they_have_within_a_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids, starts = tokens_of_words(tokenizer, WORDS, ROW)
    # The first word as within a text too, so a text with a word before it is what to compare with.
    within = list(tokenizer(" ".join(["in", *WORDS]))["input_ids"])
    specials = 1 if ids[0] in tokenizer.all_special_ids else 0
    assert ids[specials:] == within[-len(ids) + specials :]
    assert starts == sorted(set(starts))
    assert len(starts) == len(WORDS)
    for word, start, end in zip(WORDS, starts, [*starts[1:], len(ids)], strict=True):
        own = tokenizer.decode(ids[start:end], skip_special_tokens=True).strip()
        assert own.replace(" ", "") in (word, "naive", word.lower())
        assert tokenizer.decode([ids[start]]).strip()


@pytest.mark.parametrize("make", [gpt2, roberta])
def test_byte_level_bpe_is_as_add_prefix_space_has_it(make: Callable[..., Any]) -> None:
    ids, starts = tokens_of_words(make(), WORDS, ROW)
    encoded = make(add_prefix_space=True)(WORDS, is_split_into_words=True)
    assert ids == encoded["input_ids"]
    assert starts == [encoded.word_ids().index(word) for word in range(len(WORDS))]
    assert make().convert_ids_to_tokens(ids)[starts[1]] == "Ġlives"


def renderer(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Renderer:
    task: dict[str, Any] = {
        "type": "token_cls",
        "input_template": "{{ words | join(' ') }}",
        "target_template": "{{ labels | join(' ') }}",
    }
    return Renderer(TaskParams(**task | changes), tokenizer, ("B", "O"))


SPACED = {"id": "7", "words": ["New York", "in", "He lives"], "labels": ["B", "O", "B"]}
BY_LINE = {
    "word_separator": "\n",
    "input_template": "{{ words | join('\n') }}",
    "target_template": "{% for label in labels %}{{ label }}\n{% endfor %}",
}


def test_words_that_hold_a_space() -> None:
    with pytest.raises(PipelineError, match=r"5 words and 3 labels.*needs task\.word_separator"):
        renderer(gpt2()).tokenize(SPACED)
    example = renderer(gpt2(), **BY_LINE).tokenize(SPACED)
    start = example["target_start"]
    assert example["input_ids"][start:] == [0, 1, 0]
    assert gpt2().decode(example["input_ids"][:start]) == " New York in He lives"
    tokens = gpt2().convert_ids_to_tokens(example["input_ids"][:start])
    assert [tokens[position] for position in example["positions"]] == ["ĠNew", "Ġin", "ĠHe"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"words": ["He", "\u200b"], "labels": ["B", "O"]},
            r"no token for the word '\\u200b' of",
        ),
        ({"words": ["He", ""], "labels": ["B", "O"]}, "has no token for the word '' of example 7"),
        ({"words": ["He", "is"], "labels": ["B", " "]}, "label 2 of example 7 is empty"),
    ],
)
def test_a_word_without_a_token_or_label(row: dict[str, Any], said: str) -> None:
    with pytest.raises(EmptyRowError, match=said):
        renderer(bert(), **BY_LINE).tokenize({"id": "7", **row})


@pytest.mark.parametrize("null", ["words", "labels"])
def test_a_null_is_no_word_and_no_label(null: str) -> None:
    row = {"id": "7", "words": ["He", "is"], "labels": ["B", "O"]}
    for value in (["B", None], None):
        with pytest.raises(EmptyRowError, match="prints a column that is null in example 7"):
            renderer(gpt2()).tokenize({**row, null: value})


@pytest.mark.parametrize("loop", ["words", "labels", "both"])
def test_a_separator_behind_the_last(loop: str) -> None:
    """A loop in a template leaves one; an empty word at the end is none."""
    ends = {kind: "\n" if loop in (kind, "both") else "" for kind in ("words", "labels")}
    task = TaskParams(type="token_cls", input_template="", target_template="", word_separator="\n")
    words, labels = "New York\nin" + ends["words"], "B\nO" + ends["labels"]
    assert words_and_labels(words, labels, task, ROW) == (["New York", "in"], ["B", "O"])
    assert words_and_labels("He\n", "B\nO\n", task, ROW) == (["He", ""], ["B", "O"])


def test_a_tokenizer_that_does_not_say_what_is_whose() -> None:
    with pytest.raises(PipelineError, match=r"task\.type: token_cls needs a tokenizer that says"):
        tokens_of_words(CanineTokenizer(), WORDS, ROW)


def test_the_stage_goes_by_its_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_training_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    bert().save_pretrained("data/model")
    rows = [
        {"words": ["He", "is"], "labels": ["B-PER", "O"]},
        {"words": ["He", "\u200b"], "labels": ["B-PER", "O"]},
        {"words": ["New York"], "labels": ["B-LOC"]},
    ]
    Path("inputs/words.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"] = dict.fromkeys(("train", "validation", "test"), "inputs/words.jsonl")
    params["task"] = {"type": "token_cls", **BY_LINE}
    params["report"]["sort_by"] = "accuracy"
    write_params(tmp_path, params)
    fetch_data.run(load_params())
    with pytest.raises(PipelineError, match=r"example train-1, in train; .* task\.empty to drop"):
        tokenize.run(load_params())
    params["task"]["empty"] = "drop"
    write_params(tmp_path, params)
    tokenize.run(load_params())
    assert task_of(Path("data/tokenized/splits")).labels == ("B-LOC", "B-PER", "O")
    split = load_split(Path("data/tokenized/splits"), "train")
    assert split["id"] == ["train-0", "train-2"]
    labels = [row["input_ids"][row["target_start"] :] for row in split]
    assert labels == [[1, 2], [0]]
