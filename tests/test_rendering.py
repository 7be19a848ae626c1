"""Rows become input and target, in a sandbox, through templates or the chat template."""

from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from pipeline.data.templates import EmptyRowError, render
from pipeline.errors import PipelineError

ROW = {"id": "1", "place": "Lima", "size": "3 km", "all": ["3 km", "three km"]}


def renderer(tokenizer: PreTrainedTokenizerFast, **changes: object) -> Renderer:
    settings = {"input_template": "{{ place }}?", "target_template": "{{ size }}"}
    return Renderer(TaskParams(**{**settings, **changes}), tokenizer)  # type: ignore[arg-type]


def test_the_target_ends_with_the_end_of_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    example = renderer(tokenizer).tokenize(ROW)
    start = example["target_start"]
    assert tokenizer.decode(example["input_ids"][:start]) == "Lima?"
    assert tokenizer.decode(example["input_ids"][start:]) == "3 km<|im_end|>"
    assert example["references"] == ["3 km"]


def test_the_chat_template_wraps_the_input(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = renderer(tokenizer, use_chat_template=True, system_prompt="Be short.")
    example = chat.tokenize(ROW)
    text = tokenizer.decode(example["input_ids"])
    assert text == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nLima?<|im_end|>\n"
        "<|im_start|>assistant\n3 km<|im_end|>"
    )


def test_references_come_from_their_column(tokenizer: PreTrainedTokenizerFast) -> None:
    example = renderer(tokenizer, references_column="all").tokenize(ROW)
    assert example["references"] == ["3 km", "three km"]


def test_demonstrations_by_a_template_or_as_the_task(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = renderer(tokenizer)
    assert plain.demonstrations([ROW, ROW], "{{ size }}") == "3 km\n\n3 km\n\n"
    assert plain.demonstrations([ROW], None) == "Lima?3 km\n\n"
    chat = renderer(tokenizer, use_chat_template=True).demonstrations([ROW], None)
    assert chat == "<|im_start|>user\nLima?<|im_end|>\n<|im_start|>assistant\n3 km<|im_end|>\n"


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with pytest.raises(PipelineError, match=r"task\.x: 'town' is undefined.*id, place, size, all"):
        render("{{ town }}", ROW, "task.x")


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(PipelineError, match="unsafe"):
        render("{{ place.__class__.__mro__ }}", ROW, "task.x")


NAMES = [
    *("Review Text", "", " a ", "a-b", "a.b", "1st", "a'b", 'a"b', "Über", "{{ x }}", "a\nb"),
    *("self", "loop", "range", "dict", "cycler", "namespace", "super", "caller", "varargs"),
    *("true", "None", "for", "if", "not", "in", "block", "items", "keys", "get", "row", "id"),
    *("class", "__class__", "__init__", "_private", "context", "environment"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_column_can_be_reached(name: str) -> None:
    row = {other: f"<{other}>" for other in NAMES}
    quoted = name.replace("'", "\\'")
    assert render(f"{{{{ row['{quoted}'] }}}}", row, "task.x") == f"<{name}>"
    # The same where Jinja2 has something of its own of that name.
    looped = f"{{% for one in [1] %}}{{{{ row['{quoted}'] }}}}{{% endfor %}}"
    assert render(looped, row, "task.x") == f"<{name}>"
    assert render("{{ id }}{{ loop }}{{ range }}", row, "task.x") == "<id><loop><range>"


def test_all_columns_of_a_row() -> None:
    assert render("{{ row | tojson }}", {"a": 1, "b": [2]}, "task.x") == '{"a": 1, "b": [2]}'
    template = "{% for name, value in row.items() %}{{ name }}={{ value }};{% endfor %}"
    assert render(template, {"a": 1, "row": 2}, "task.x") == "a=1;row=2;"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ row['town'] }}", r"'town' is no column; the data's columns are: self, row, d"),
        ("{{ row.town }}", r"'town' is no column"),
        ("{{ row[0] }}", r"0 is no column"),
        ("{{ row }}", r"`row` holds all columns; print one of them, row\['its name'\]"),
        ("{{ row | upper }}", r"`row` holds all columns"),
        ("{{ row | join(' ') }}", r"the column of that name is row\['row'\]"),
        ("{% for x in row %}{{ x }}{% endfor %}", r"the column of that name is row\['row'\]"),
        ("{{ self }}", r"`self` is Jinja2's own; the column is row\['self'\]"),
        ("{% if self %}a{% endif %}", r"`self` is Jinja2's own"),
        ("{{ range }}", r"no value of a column \(function\); a column .* row\['its name'\]"),
        ("{{ d.items }}", r"no value of a column .* a key column\['its name'\]"),
        ("{% for x in [1] %}{{ loop }}{% endfor %}", r"no value of a column \(LoopContext\)"),
        ("{{ Review Text }}", r"no valid Jinja2 template: .* no word, .* is row\['its name'\]"),
        ("{{ row.update({'a': 1}) }}", "'update' is no column"),
        # What Python would print of these is another at each run.
        ("{{ d.items ~ '!' }}", r"no value of a column .* a key column\['its name'\]"),
        ("{{ 'so ' ~ (range ~ '') }}", r"no value of a column \(function\)"),
        ("{{ d.items | string }}", r"no value of a column .* a key column\['its name'\]"),
    ],
)
def test_what_is_no_column_is_a_sentence(template: str, said: str) -> None:
    row = {"self": "me", "row": ["a", "b"], "d": {"items": 1}}
    with pytest.raises(PipelineError, match=said) as caught:
        render(template, row, "task.x")
    assert str(caught.value).startswith("task.x: ")
    assert type(caught.value) is PipelineError


NULLS = {"id": "7", "a": None, "t": ["x", None], "s": {"b": None}, "o": [{"x": None}]}


@pytest.mark.parametrize(
    "template",
    [
        *("{{ a }}", "{{ a ~ '!' }}", "{{ '!' ~ a }}", "{{ a | trim }}", "{{ a | upper }}"),
        *("{{ a | replace('x', 'y') }}", "{{ a | string }}", "{{ a | truncate(5) }}"),
        *("{{ t | join(' ') }}", "{{ a | join(' ') }}", "{{ o | join(' ', attribute='x') }}"),
        *("{{ t | map('title') | join }}", "{% filter trim %}{{ a }}{% endfilter %}"),
        *("{{ a.text }}", "{{ a.text[0] if a.text else 'none' }}", "{{ s.b.c }}", "{{ s.b[0] }}"),
        *("{{ a | first }}", "{{ a[:5] }}", "{% for x in a %}{{ x }}{% endfor %}", "{{ a + 'x' }}"),
    ],
)
def test_a_null_is_printed_by_nothing(template: str) -> None:
    with pytest.raises(EmptyRowError, match="prints a column that is null in example 7"):
        render(template, NULLS, "task.x")


def test_a_null_that_a_template_asks_about() -> None:
    template = "{{ a or 'b' }}{{ t | select | join }}{{ (a ~ '') if a else 'c' }}{{ a is none }}"
    assert render(template, NULLS, "task.x") == "bxcTrue"
    more = "{{ o | map(attribute='x') | list | length }}{{ ['p', 1] | join('-') }}{{ 1 ~ [2] }}"
    assert render(more, NULLS, "task.x") == "1p-11[2]"
    assert (
        render("{{ o | join(', ', attribute='n') }}", {"o": [{"n": 1}, {"n": "2"}]}, "x") == "1, 2"
    )


def test_no_chat_template_is_a_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(PipelineError, match=r"task\.use_chat_template: .* has no chat template"):
        renderer(tokenizer, use_chat_template=True).tokenize(ROW)


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq_lm", "seq_cls"])
def test_a_long_input_loses_its_beginning(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    row = {**ROW, "place": "the city of Lima"}
    cut = replace(
        renderer(tokenizer, type=kind, too_long="truncate", max_length=9), labels=("3 km", "4 km")
    ).truncated(row)
    assert len(cut["input_ids"]) == 9
    assert cut["input"] == "the city of Lima?"[-cut["target_start"] :]
    assert cut["target"] == "3 km"
