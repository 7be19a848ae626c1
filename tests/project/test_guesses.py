"""`init` guesses what is read and what is written, by names or by lengths, and says so."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.project.conftest import Begun, questions

Begin = Callable[..., Begun]
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "runs", "far", "away")


def text(index: int, words: int = 12) -> str:
    return (
        " ".join(WORDS[(index * 5 + place * 3) % len(WORDS)] for place in range(words))
        + f" {index}"
    )


def rows(**columns: Any) -> list[dict[str, Any]]:
    """Forty rows; a column is a function of the row's number."""
    return [{name: value(index) for name, value in columns.items()} for index in range(40)]


def long(index: int) -> str:
    return text(index, 30)


def short(index: int) -> str:
    return text(index, 3)


def label(index: int) -> str:
    return ("good", "bad", "so so")[index % 3]


def number(index: int) -> int:
    return index


READ_AND_WRITTEN: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "question and answer": (
        {"id": number, "question": text, "answer": short},
        ("{{ question }}", "{{ answer }}"),
    ),
    "in any order, in capitals": (
        {"Answer": long, "Question": short},
        ("{{ Question }}", "{{ Answer }}"),
    ),
    "with a context, which is read first": (
        {"title": short, "context": long, "question": text, "answer": short},
        ("{{ context }}\n\n{{ question }}", "{{ answer }}"),
    ),
    "prompt and completion": (
        {"prompt": text, "completion": long},
        ("{{ prompt }}", "{{ completion }}"),
    ),
    "an instruction whose input may be empty": (
        {"instruction": text, "input": lambda i: "" if i % 2 else short(i), "output": long},
        ("{{ instruction }}{% if input %}\n\n{{ input }}{% endif %}", "{{ output }}"),
    ),
    "a summary": ({"summary": text, "text": long}, ("{{ text }}", "{{ summary }}")),
    "highlights": (
        {"article": long, "highlights": text, "id": text},
        ("{{ article }}", "{{ highlights }}"),
    ),
    "input and target": ({"input": text, "target": text}, ("{{ input }}", "{{ target }}")),
    "source and target": ({"target": long, "source": short}, ("{{ source }}", "{{ target }}")),
    "a pair of sentences": (
        {"premise": long, "hypothesis": text, "label": label},
        ("{{ premise }}\n\n{{ hypothesis }}", "{{ label }}"),
    ),
    "a label in words, and as a number": (
        {"text": text, "label": lambda i: i % 3, "label_text": label},
        ("{{ text }}", "{{ label_text }}"),
    ),
    "a source and a target, as texts": (
        {"target_text": long, "source_text": short},
        ("{{ source_text }}", "{{ target_text }}"),
    ),
    "a name of a label before one that ends with one": (
        {"product_category": label, "review_body": text, "stars": lambda i: i % 5},
        ("{{ review_body }}", "{{ stars }}"),
    ),
    "questions that a query answers": (
        {"schema": text, "query": short, "question": long},
        ("{{ schema }}\n\n{{ question }}", "{{ query }}"),
    ),
    "an option is no answer": (
        {"question": text, "option_a": short, "option_b": short, "correct_answer": label},
        ("{{ question }}", "{{ correct_answer }}"),
    ),
    "Q and A": ({"A": long, "Q": short}, ("{{ Q }}", "{{ A }}")),
    "names of several words": (
        {"Customer Review": text, "Overall Rating": lambda i: i % 5 + 1, "reviewId": number},
        ("{{ row['Customer Review'] }}", "{{ row['Overall Rating'] }}"),
    ),
    "camels": (
        {"userQuestion": text, "bestAnswer": short},
        ("{{ userQuestion }}", "{{ bestAnswer }}"),
    ),
    "by length, ids and dates left out": (
        {
            "nr": number,
            "date": short,
            "uuid": short,
            "besked": long,
            "svar": text,
            "land": lambda i: "DK",
        },
        ("{{ besked }}", "{{ svar }}"),
    ),
    "by length, a column without a name left out": (
        {"": number, "a": long, "b": short},
        ("{{ a }}", "{{ b }}"),
    ),
    "odd names": (
        {"what's read?": long, "${b} {{ x }}": short},
        ('{{ row["what\'s read?"] }}', "{{ row['\\x24\\x7bb\\x7d \\x7b\\x7b x \\x7d\\x7d'] }}"),
    ),
    "names of Jinja2's": (
        {"loop": long, "not": short},
        ("{{ row['loop'] }}", "{{ row['not'] }}"),
    ),
    "who speaks": (
        {"assistant": long, "user": short},
        ("{{ user }}", "{{ assistant }}"),
    ),
    "a text and its translation, in the file's order": (
        {"id": number, "en": text, "de": lambda i: text(i) + " schnell"},
        ("{{ en }}", "{{ de }}"),
    ),
    "numbers of articles left out": (
        {"sku": lambda i: f"A-{i}", "blurb": long, "name": short},
        ("{{ blurb }}", "{{ name }}"),
    ),
    "a question with choices": (
        {"question": text, "choices": lambda i: [short(i), "no"], "answer": lambda i: i % 2},
        ("{{ question }}\n\n{{ choices | join('\\n\\n') }}", "{{ answer }}"),
    ),
    "several labels at once": (
        {"text": text, "labels": lambda i: ["good", "so so"][: 1 + i % 2]},
        ("{{ text }}", "{{ labels | join(', ') }}"),
    ),
    "several answers": (
        {"question": text, "answers": lambda i: [short(i), "it"]},
        ("{{ question }}", "{{ answers[0] }}"),
    ),
    "SQuAD's answers": (
        {
            "context": long,
            "question": text,
            "answers": lambda i: {"text": [short(i)], "start": [3]},
        },
        ("{{ context }}\n\n{{ question }}", "{{ answers['text'][0] }}"),
    ),
    "a list that is read": (
        {"input": lambda i: [short(i), text(i)], "target": long},
        ("{{ input | join('\\n\\n') }}", "{{ target }}"),
    ),
}


@pytest.mark.parametrize("name", READ_AND_WRITTEN)
def test_what_is_read_and_what_is_written(begin: Begin, name: str) -> None:
    columns, expected = READ_AND_WRITTEN[name]
    begun = begin(rows(**columns))
    task = begun.params["task"]
    assert (task["input_template"], task["target_template"]) == expected
    assert task["type"] == "causal_lm"
    lists = ("several answers", "SQuAD's answers")
    assert task["references_column"] == ("answers" if name in lists else None)
    # Whatever is guessed, the guess stands where it can be changed, and on the screen.
    for key in ("input_template", "target_template"):
        before = begun.text[: begun.text.index(f"  {key}:")]
        assert (
            "# guessed: " in before.splitlines()[-1] or "change it here" in before.splitlines()[-1]
        )
        assert f"  task.{key}: " in begun.said
    assert "params.yaml is valid" in begun.said


@pytest.mark.parametrize(
    ("columns", "nameless"),
    [
        ({"text": text, "label": label}, []),
        ({"The service was slow and the soup cold": text, "bad": label}, [0, 1]),
        ({"How do you like our new hall?": label, "Why?": lambda i: long(i) * 2}, [0]),
    ],
)
def test_a_first_row_that_may_be_no_names(
    begin: Begin, columns: dict[str, Any], nameless: list[int]
) -> None:
    said = begin(rows(**columns), suffix=".csv").said
    found = [name for name in columns if f"warning: '{name}' is taken for a column's name" in said]
    assert found == [list(columns)[index] for index in nameless]


def test_two_examples_are_shown_as_they_are_rendered(begin: Begin) -> None:
    said = begin(rows(context=long, question=text, answer=short)).said
    first = said.splitlines().index("two of them, as the model reads and writes them:") + 1
    shown = said.splitlines()[first : first + 4]
    every = [(f"  {long(i)}\\n\\n{text(i)}", f"    -> {short(i)}") for i in range(40)]
    assert (shown[0], shown[1]) in every
    assert (shown[2], shown[3]) in every


def test_a_person_may_say_more(begin: Begin) -> None:
    table = rows(question=text, answer=short, note=long, mark=label)
    both = ("--input", "note", "--input", "question", "--target", "mark")
    task = begin(table, *both).params["task"]
    assert task["input_template"] == "{{ note }}\n\n{{ question }}"
    assert task["target_template"] == "{{ mark }}"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--target", "mark"), ("{{ question }}", "{{ mark }}")),
        (("--input", "note"), ("{{ note }}", "{{ answer }}")),
    ],
)
def test_the_other_column_is_still_guessed(
    begin: Begin, option: tuple[str, str], expected: tuple[str, str]
) -> None:
    table = rows(question=text, answer=short, note=short, mark=label)
    task = begin(table, *option).params["task"]
    assert (task["input_template"], task["target_template"]) == expected


def turns(index: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": text(index)},
        {"role": "assistant", "content": short(index)},
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_turns_of_a_chat(begin: Begin, suffix: str) -> None:
    as_text = json.dumps if suffix == ".csv" else lambda value: value
    begun = begin(rows(messages=lambda i: as_text(turns(i)), source=short), suffix=suffix)
    task = begun.params["task"]
    assert (task["messages_column"], task["use_chat_template"]) == ("messages", True)
    shown = [
        index
        for index in range(40)
        if f"  user: {text(index)}\n    -> {short(index)}\n" in begun.said
    ]
    assert len(shown) == 2


def test_turns_of_sharegpt(begin: Begin) -> None:
    def shared(index: int) -> list[dict[str, str]]:
        names = {"user": "human", "assistant": "gpt"}
        return [{"from": names[t["role"]], "value": t["content"]} for t in turns(index)]

    begun = begin(rows(id=number, conversations=shared))
    assert begun.params["task"]["messages_column"] == "conversations"
    assert (
        "task.type: the last answer in 'conversations' is what the model is to write" in begun.said
    )
    shown = [i for i in range(40) if f"  user: {text(i)}\n    -> {short(i)}\n" in begun.said]
    assert len(shown) == 2


def test_words_and_their_labels(begin: Begin) -> None:
    columns = {
        "tokens": lambda i: text(i).split(),
        "ner_tags": lambda i: ["B" if word == "fox" else "O" for word in text(i).split()],
    }
    params = begin(rows(**columns)).params
    assert params["task"]["type"] == "token_cls"
    assert params["task"]["input_template"] == "{{ tokens | join(' ') }}"
    assert params["task"]["target_template"] == "{{ ner_tags | join(' ') }}"
    assert list(params["baselines"]) == ["no_prefix"]


def test_words_that_hold_spaces(begin: Begin) -> None:
    columns = {"tokens": lambda i: ["New York", short(i)], "tags": lambda i: ["B", "O"]}
    task = begin(rows(**columns)).params["task"]
    assert task["word_separator"] == "\n"
    assert task["input_template"] == "{{ tokens | join('\\n') }}"


def test_labels_are_written_and_a_head_is_offered(begin: Begin) -> None:
    table = rows(text=text, sentiment=label)
    begun = begin(table)
    assert begun.params["task"]["type"] == "causal_lm"
    assert "'sentiment' has 3 different values" in begun.said
    assert "with --task seq_cls a classifier's head" in begun.said
    assert begun.params["evaluate"]["metrics"] == ["exact_match", "token_f1"]


def test_the_head_that_was_offered(begin: Begin) -> None:
    params = begin(rows(text=text, sentiment=label), "--task", "seq_cls").params
    assert params["task"]["type"] == "seq_cls"
    assert params["task"]["use_chat_template"] is False
    assert list(params["baselines"]) == ["no_prefix"]


def test_a_rare_label_is_one_of_training(begin: Begin) -> None:
    table = rows(text=text, label=lambda i: "often" if i % 2 else "seldom")
    tested = begin(table, "--task", "seq_cls").rows("test")[0]
    for row in table:
        row["label"] = "rare" if row["text"] == tested["text"] else row["label"]
    again = begin(table, "--task", "seq_cls", "--force")
    assert "rare" in [row["label"] for row in again.rows("train")]
    assert "rare" not in [row["label"] for row in again.rows("test")]
    assert tested["text"] not in [row["text"] for row in again.rows("test")]


def test_many_different_texts_are_no_labels(begin: Begin) -> None:
    assert "different values" not in begin(rows(text=text, label=short)).said


@pytest.mark.parametrize(
    ("target", "metrics"),
    [
        (lambda i: f"{i} m", ["exact_match", "token_f1"]),
        (long, ["chrf", "rouge_l"]),
        (lambda i: "ein sehr schöner, größerer Hügel über dem Tal " + "ä" * i, ["chrf", "bleu"]),
    ],
)
def test_metrics_fit_the_targets(begin: Begin, target: Any, metrics: list[str]) -> None:
    params = begin(rows(question=text, answer=target)).params
    assert params["evaluate"]["metrics"] == metrics


def test_a_first_pair_and_baselines(begin: Begin) -> None:
    params = begin(questions()).params
    assert params["sweep"]["initializations"] == ["vocabulary", "demonstrations"]
    assert (len(params["sweep"]["lengths"]), params["sweep"]["seeds"]) == (1, [0])
    assert list(params["baselines"]) == ["no_prefix", "few_shot"]
    search = params["train"]["learning_rate_search"]
    assert (search["lowest"], search["highest"]) == (0.001, 0.1)
    assert params["mlflow"]["experiment"] == "new"
    # The keys' own comments, which are their documentation, are there too.
    assert "# passes over the training split" in begin(questions(), "--force").text


def test_a_corpus_is_a_third_start(begin: Begin, in_place: Any) -> None:
    (in_place / "handbook.txt").write_text("Hills are measured from the sea. " * 40)
    begun = begin(questions(), "--corpus", "handbook.txt", "--name", "hills")
    assert begun.params["sweep"]["initializations"][-1] == "corpus"
    assert begun.params["initializations"]["corpus"]["path"] == "corpora/handbook.txt"
    assert (begun.root / "corpora" / "handbook.txt").exists()
    assert begun.params["mlflow"]["experiment"] == "hills"
    # No more tokens are cached than a short text has.
    (in_place / "handbook.txt").write_text("Hills are measured from the level of the sea.")
    params = begin(questions(), "--corpus", "handbook.txt", "--force").params
    assert params["kv_prefix"]["max_length"] == params["sweep"]["lengths"][0] == 4


def test_long_examples(begin: Begin) -> None:
    few = rows(article=lambda i: text(i, 3000 if i < 5 else 30), summary=short)
    begun = begin(few)
    assert begun.params["task"]["too_long"] == "drop"
    assert "5 of 40 examples may have more tokens" in begun.said
    assert "and then are left out" in begun.said
    most = rows(article=lambda i: text(i, 3000), summary=short)
    params = begin(most, "--force").params
    assert params["task"]["too_long"] == "truncate"
    assert params["task"]["max_length"] == 1024
    # So that a first result comes soon.
    assert params["train"]["epochs"] * 28 * 1024 <= 60_000


def test_short_examples_fit_whatever_the_tokenizer(begin: Begin) -> None:
    task = begin(questions()).params["task"]
    longest = max(len(row["question"] + row["answer"]) for row in questions())
    assert task["too_long"] == "refuse"
    assert longest + 32 < task["max_length"] <= 512
