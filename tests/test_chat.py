"""A chat template's own end of a turn, its variables, its day, and columns of several turns."""

import json
from typing import Any

import pytest
import torch
from datasets import Dataset
from ruamel.yaml import YAML
from transformers import PreTrainedTokenizerFast

from pipeline.config.evaluate import EvaluateParams
from pipeline.config.task import TaskParams
from pipeline.data.chat import pinned_to
from pipeline.data.rendering import Renderer
from pipeline.data.splits import load_split, save_splits
from pipeline.data.task_type import TaskType, task_of
from pipeline.data.templates import EmptyRowError
from pipeline.data.tokenizing import TokenizedSplit
from pipeline.errors import PipelineError
from pipeline.evaluation.generation import measure_examples
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.inference.streaming import TerminalStreamer
from pipeline.prefix import PrefixModel
from tests.conftest import tiny_model, tiny_tokenizer
from tests.tokenizers import DATED, END_OF_TURN, GEMMA, PHI, tokenizer_that

ROW = {"id": "1", "place": "Lima", "size": "3 km"}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Lima?"},
    {"role": "assistant", "content": "3 km"},
]


def renderer(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Renderer:
    settings = {"input_template": "{{ place }}?", "target_template": "{{ size }}"}
    if "messages_column" in changes:
        settings = {}
    return Renderer(TaskParams(**{**settings, "use_chat_template": True, **changes}), tokenizer)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (GEMMA, "<end_of_turn>"),
        # It prints an end of text after the last turn; a turn ends before it.
        (PHI, "<end_of_turn>"),
        (DATED, "<eos>"),
        # Two tokens of which the second ends the turn, as Llama 2 has it.
        ("{% for m in messages %}{{ m['content'] }} <eos>{% endfor %}", " <eos>"),
        # No token of its own: the end of a text, as without a chat template.
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "<eos>"),
    ],
)
def test_a_target_ends_as_the_template_ends_a_turn(template: str, end: str) -> None:
    tokenizer = tokenizer_that(template=template)
    example = renderer(tokenizer).tokenize(ROW)
    target = example["input_ids"][example["target_start"] :]
    assert tokenizer.decode(target) == f"3 km{end}"


class Writes(torch.nn.Module):
    """A head that makes a tiny model write given tokens over and over, whatever it reads."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order, self.step = order, 0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*states.shape[:-1], 300)
        logits[..., self.order[self.step % len(self.order)]] = 9.0
        self.step += 1
        return logits


@pytest.mark.parametrize("special", [True, False])
def test_generation_stops_at_the_end_of_a_turn(
    special: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model's settings do not know it, and the tokenizer calls it no special."""
    tokenizer = tokenizer_that(template=GEMMA)
    if not special:
        tokenizer.add_tokens(["<done>"])
        tokenizer.chat_template = GEMMA.replace("<end_of_turn>", "<done>")
    task = renderer(tokenizer).task
    end = Renderer(task, tokenizer).end_of_target[-1]
    model = tiny_model(vocab_size=300)
    written = [*tokenizer.encode("3 km", add_special_tokens=False), end]
    head = Writes([*written, *written])
    model.lm_head = head
    generator = TextGenerator(PrefixModel(model), tokenizer, task)
    assert generator("Lima?", Decoding(12)) == "3 km"
    head.step = 0
    generator("Lima?", Decoding(12), TerminalStreamer(tokenizer, generator.ends))
    assert capsys.readouterr().out == "3 km\n"
    row = Renderer(task, tokenizer).tokenize(ROW)
    split = Dataset.from_list([dict(row)])
    head.step = 0
    params = EvaluateParams(splits=["test"], max_new_tokens=12, device="cpu")
    # One call of the head scores the target in the pass that prefills the input, or two do.
    prefixed = PrefixModel(model)
    monkeypatch.setattr(PrefixModel, "why_not_packed", lambda *_, **__: "the head is none")
    head.order = [written[0], 0, *written[1:]]
    (outcome,) = measure_examples(prefixed, tokenizer, split, params, "test", 4096, end)
    assert (outcome.text, outcome.generated_tokens) == ("3 km", len(written))


def test_the_end_of_targets_is_kept_beside_the_splits(tmp_path: Any) -> None:
    example = renderer(tokenizer_that(template=GEMMA)).tokenize(ROW)
    save_splits({"test": [example]}, tmp_path, TaskType(end=END_OF_TURN))
    assert task_of(tmp_path).end == END_OF_TURN
    assert load_split(tmp_path, "test")[0]["beginning"] == 1
    save_splits({"test": [example]}, tmp_path)
    assert task_of(tmp_path).end is None


def text_of(rendered: Renderer, asked: Any = "Lima?") -> str:
    return str(rendered.tokenizer.decode(rendered.prompt_ids(asked)))


def test_variables_reach_the_template() -> None:
    tokenizer = tokenizer_that(template=DATED)
    assert "quick" not in text_of(renderer(tokenizer))
    quick = renderer(tokenizer, chat_template_kwargs={"enable_thinking": False})
    assert text_of(quick) == "<bos>Today: 01 Jan 2025 quick.\nuser: Lima?assistant: "


@pytest.mark.parametrize(
    ("call", "printed"),
    [
        ("strftime_now('%d %B %Y')", "29 February 2024"),
        ("strftime_now('%Y-%m-%d')", "2024-02-29"),
        ("strftime_now('%A, %-d %b %y, day %j, %H:%M')", "Thursday, 29 Feb 24, day 060, 00:00"),
        ("strftime_now(format)", "02/29/24"),
    ],
)
def test_the_day_is_the_tasks(call: str, printed: str) -> None:
    template = f"\n  {{%- set format = '%D' %}}{{{{ {call} }}}}{{{{ messages[0]['content'] }}}}"
    tokenizer = tokenizer_that(template=template)
    assert text_of(renderer(tokenizer, chat_template_date="2024-02-29"), "?") == f"{printed}?"
    own = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert own != f"{printed}?"


def test_a_template_without_a_day_is_left_as_it_is() -> None:
    assert pinned_to("2024-02-29", GEMMA) == GEMMA
    dated = "\n{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}"
    tokenizer = tokenizer_that(template=dated + "{{ messages[0]['content'] }}")
    assert text_of(renderer(tokenizer)) == "\n2025Lima?"


def test_an_unquoted_date_is_its_text() -> None:
    """As which MLflow's models keep it, in JSON."""
    variables = YAML(typ="safe").load("{date_string: 2024-07-26, more: [2024-07-26]}")
    settings: dict[str, Any] = {"input_template": "{{ x }}", "target_template": "{{ y }}"}
    task = TaskParams(**settings, use_chat_template=True, chat_template_kwargs=variables)
    assert task.chat_template_kwargs == {"date_string": "2024-07-26", "more": ["2024-07-26"]}
    assert json.loads(json.dumps(task.model_dump())) == task.model_dump()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chat_template_kwargs": {"bos_token": ""}}, "cannot set bos_token, which the pipeline"),
        ({"chat_template_kwargs": {"tokenize": True}}, "cannot set tokenize"),
        ({"chat_template_kwargs": {"self": 1}}, "cannot set self"),
        ({"chat_template_kwargs": {"a": [{1}]}}, "holds what JSON has no form for"),
        ({"chat_template_date": "tomorrow"}, "should be a date such as 2025-01-31"),
        ({"use_chat_template": False, "chat_template_kwargs": {"a": 1}}, "needs use_chat_template"),
        ({"loss_on": "all"}, "loss_on: all needs messages_column"),
        ({"messages_column": "talk"}, "give messages_column or input_template and target_template"),
    ],
)
def test_what_cannot_be_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    settings = {"input_template": "{{ x }}", "target_template": "{{ y }}"}
    with pytest.raises(ValueError, match=sentence):
        TaskParams(**{**settings, "use_chat_template": True, **changes})
    with pytest.raises(ValueError, match="target_template: is missing"):
        TaskParams(input_template="{{ x }}")
    with pytest.raises(ValueError, match="too_long: truncate would cut"):
        TaskParams(messages_column="talk", use_chat_template=True, too_long="truncate")


@pytest.mark.parametrize("given", [TALK, json.dumps(TALK)])
def test_the_last_answer_is_the_target_after_all_turns(given: Any) -> None:
    tokenizer = tokenizer_that(template=GEMMA)
    rendered = renderer(tokenizer, messages_column="talk")
    (example,) = rendered.examples({"id": "7", "talk": given})
    start = example["target_start"]
    turn = "<start_of_turn>{}\n{}<end_of_turn>\n"
    assert tokenizer.decode(example["input_ids"][:start]) == (
        "<bos>" + turn.format("user", "Hello") + turn.format("model", "Hi")
        + turn.format("user", "Lima?") + "<start_of_turn>model\n"
    )  # fmt: skip
    assert tokenizer.decode(example["input_ids"][start:]) == "3 km<end_of_turn>"
    assert example["input"] == "user: Hello\nassistant: Hi\nuser: Lima?"
    assert json.loads(example["turns"]) == TALK[:3]
    assert example["references"] == ["3 km"]
    # What is generated goes on from the prompt of training, with an answer there or without.
    for row in ({"talk": given}, {"talk": TALK[:3]}):
        assert rendered.prompt_ids(rendered.asked(row)) == example["input_ids"][:start]


def test_every_answer_is_a_target_after_the_turns_before_it() -> None:
    tokenizer = tiny_tokenizer()
    rendered = renderer(tokenizer, messages_column="talk", loss_on="all")
    row = {"id": "7", "talk": [{"role": "system", "content": "Short.", "name": None}, *TALK]}
    split = TokenizedSplit(rendered, "train", [row])
    kept = list(split)
    assert [(e["id"], e["target"]) for e in kept] == [("7#1", "Hi"), ("7", "3 km")]
    whole = tokenizer.decode(kept[1]["input_ids"])
    assert whole.startswith("<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\nHello")
    assert whole.startswith(tokenizer.decode(kept[0]["input_ids"]))
    assert sum(split.counts.values()) == 0


def test_an_answer_goes_on_from_a_rows_turns() -> None:
    tokenizer = tokenizer_that(template=GEMMA)
    rendered = renderer(tokenizer, messages_column="talk")
    model = PrefixModel(tiny_model(vocab_size=300))
    generator = TextGenerator(model, tokenizer, rendered.task)
    answer = generator(generator.render({"id": "7", "talk": TALK}), Decoding(5))
    example = rendered.tokenize({"id": "7", "talk": TALK})
    ids = torch.tensor([example["input_ids"][: example["target_start"]]])
    ends = sorted(generator.ends)
    written = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=ends)
    expected = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer == expected.strip()
    assert answer != generator("Lima?", Decoding(5))


@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (TALK[:1], "example 7 has no assistant's turn"),
        ([{"role": "system", "content": "x"}, TALK[1]], "no turn before an assistant's"),
        (None, "'talk' of example 7 is null"),
        ([TALK[0], {"role": "assistant", "content": " "}], "the target of example 7 is empty"),
        ([TALK[0], {"role": "assistant"}], "the target of example 7 is empty"),
    ],
)
def test_a_conversation_without_an_answer_is_empty(talk: Any, sentence: str) -> None:
    rendered = renderer(tiny_tokenizer(), messages_column="talk")
    with pytest.raises(EmptyRowError, match=sentence):
        rendered.tokenize({"id": "7", "talk": talk})


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "x"}, "'talk' is no column; the data's columns are: id, text"),
        ({"talk": "Hello"}, "is no list of turns"),
        ({"talk": [{"content": "x"}]}, "is no list of turns"),
        ({"talk": [{"role": None, "content": "x"}, TALK[1]]}, "is no list of turns"),
        ({"talk": [{"from": "human"}, TALK[1]]}, "is no list of turns"),
        (
            {"talk": [{"role": "user", "content": [{"type": "image"}]}, TALK[1]]},
            r"content of a turn \(user\) in example 7 is a list; a text is needed, or parts",
        ),
        ({"talk": [TALK[0], {"role": "assistant", "content": ["x"]}]}, "is a list; a text is"),
    ],
)
def test_what_is_no_conversation_is_a_sentence(row: dict[str, Any], sentence: str) -> None:
    rendered = renderer(tiny_tokenizer(), messages_column="talk")
    with pytest.raises(PipelineError, match=sentence):
        rendered.tokenize({"id": "7", **row})


IN_PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("template", [GEMMA, IN_PARTS])
def test_parts_are_a_text_and_a_text_is_a_part(template: str) -> None:
    """A list of parts never shows as Python prints it, and no text is lost to a template that reads
    parts alone."""
    tokenizer = tokenizer_that(template=template)
    rendered = renderer(tokenizer, messages_column="talk")
    parts: list[dict[str, Any]] = [
        {"role": turn["role"], "content": [{"type": "text", "text": t} for t in turn["content"]]}
        for turn in TALK
    ]
    plain = rendered.tokenize({"id": "7", "talk": TALK})
    assert rendered.tokenize({"id": "7", "talk": parts}) == plain
    whole = tokenizer.decode(plain["input_ids"])
    assert [whole.count(turn["content"]) for turn in TALK] == [1, 1, 1, 1]
    assert whole.endswith("3 km<end_of_turn>")
    assert "type" not in whole


@pytest.mark.parametrize("own", ["gpt", "chatgpt", "assistant"])
def test_turns_of_sharegpt_are_turns(own: str) -> None:
    names = {"user": "human", "assistant": own}
    shared = [{"from": names[turn["role"]], "value": turn["content"]} for turn in TALK]
    rendered = renderer(tokenizer_that(template=GEMMA), messages_column="talk")
    plain = rendered.tokenize({"id": "7", "talk": TALK})
    assert rendered.tokenize({"id": "7", "talk": shared}) == plain
    assert rendered.tokenize({"id": "7", "talk": json.dumps(shared)}) == plain


def test_turns_that_a_template_refuses_are_named() -> None:
    rendered = renderer(tokenizer_that(template=GEMMA), messages_column="talk")
    system = {"role": "system", "content": "Short."}
    with pytest.raises(
        PipelineError, match=r"^task\.messages_column: .* refuses example 7: System"
    ):
        rendered.tokenize({"id": "7", "talk": [system, *TALK]})


def test_a_template_that_says_nothing_of_a_user_is_a_sentence() -> None:
    tokenizer = tokenizer_that(template="{% for m in messages %}{{ m['role'] }}<eos>{% endfor %}")
    with pytest.raises(PipelineError, match=r"prints nothing of what a user says; set it to false"):
        renderer(tokenizer).tokenize(ROW)


def test_a_tools_data_stays_data() -> None:
    template = "{% for m in messages %}{{ m['content'] | tojson }}<eos>{% endfor %}"
    rendered = renderer(tokenizer_that(template=template), messages_column="talk")
    talk = [TALK[0], {"role": "tool", "content": [{"celsius": 3}]}, TALK[1]]
    assert rendered.tokenizer.decode(rendered.prompt_ids(talk)).startswith(
        '"Hello"<eos>[{"celsius": 3}]<eos>'
    )
