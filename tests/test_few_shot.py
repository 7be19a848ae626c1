"""Whole training examples in the context: one prompt's tokens, and shots that validation likes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError

from pipeline.baselines.few_shot import FewShot
from pipeline.config.task import TaskParams
from pipeline.data.few_shot import FewShotPrompt
from pipeline.data.rendering import Renderer
from pipeline.data.splits import load_split, save_splits
from pipeline.errors import PipelineError
from pipeline.models.for_baseline import ForBaseline
from pipeline.prefix import KVPrefix, kv_prefix_from_tokens
from pipeline.stages import baselines
from pipeline.storage.records import read_json, read_jsonl
from pipeline.workspace import paths
from tests.baseline_folder import make_baseline_folder
from tests.conftest import rows, tiny_tokenizer
from tests.hybrids import qwen3_next
from tests.tokenizers import BOS, GEMMA, PHI, tokenizer_that

TEMPLATES = {"chatml": None, "gemma": GEMMA, "phi": PHI}
SAID = "Copy the value.\n"


def tokenizer_of(template: str) -> Any:
    if template == "chatml":
        return tiny_tokenizer()
    return tokenizer_that(template=TEMPLATES.get(template))


def renderer(template: str, **changes: Any) -> Renderer:
    settings: dict[str, Any] = {
        "input_template": "{{ record }}\n{{ key }}?\n",
        "target_template": "{{ value }}",
        "use_chat_template": template != "plain",
    }
    return Renderer(TaskParams(**{**settings, **changes}), tokenizer_of(template))


def split_of(rendered: Renderer, name: str, count: int, folder: Path) -> Dataset:
    save_splits({name: [rendered.tokenize({"id": str(i), **row}) for i, row in
                        enumerate(rows(name, count))]}, folder / name)  # fmt: skip
    return load_split(folder / name, name)


@pytest.mark.parametrize("instructions", [None, SAID])
@pytest.mark.parametrize("template", ["plain", *TEMPLATES])
def test_context_and_input_are_the_tokens_of_one_prompt(
    template: str, instructions: str | None, tmp_path: Path
) -> None:
    rendered = renderer(template)
    tokenizer = rendered.tokenizer
    train, test = (split_of(rendered, name, 3, tmp_path) for name in ("train", "test"))
    prompt = FewShotPrompt(rendered, train.select([0, 1]).to_list(), instructions)
    shared = prompt.shared_by([test])
    for row, own in zip(test, prompt.follow(test, shared), strict=True):
        pairs = [(train[i]["input"], train[i]["target"]) for i in (0, 1)]
        if template == "plain":
            shown = [instructions.strip()] if instructions else []
            shown += [asked + answer for asked, answer in pairs]
            text = "".join(f"{part}\n\n" for part in shown) + row["input"]
            whole, end = tokenizer.encode(text), tokenizer.encode("\n")[1:]
        else:
            turns: list[dict[str, str]] = []
            for asked, answer in pairs:
                turns.append({"role": "user", "content": asked})
                turns.append({"role": "assistant", "content": answer})
            turns.append({"role": "user", "content": row["input"]})
            if instructions and template == "gemma":
                # It refuses a system's turn: people put it into the first.
                turns[0]["content"] = f"Copy the value.\n\n{turns[0]['content']}"
            elif instructions:
                turns.insert(0, {"role": "system", "content": instructions})
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            whole, end = tokenizer.encode(text, add_special_tokens=False), rendered.end_of_target
        start = own["target_start"]
        assert [*shared, *own["input_ids"][:start]] == whole
        assert whole.count(BOS) == (template in ("plain", "gemma"))
        target = tokenizer.encode(row["target"], add_special_tokens=False)
        # Without a chat template the end is the line break that ends the answers shown.
        assert own["input_ids"][start:] == [*target, *end]
        assert own["input"] == row["input"]
    assert len(shared) > len(whole) / 2


def test_what_joins_at_the_boundary_belongs_to_the_input(tmp_path: Path) -> None:
    """An input that begins with line breaks, after a template's own: one token holds two."""
    rendered = renderer("gemma", input_template="\n\n{{ key }}")
    joined = tokenizer_that(template=GEMMA.replace(" | trim", ""))
    rendered = Renderer(rendered.task, joined)
    train, test = (split_of(rendered, name, 2, tmp_path) for name in ("train", "test"))
    prompt = FewShotPrompt(rendered, train.select([0]).to_list())
    shared = prompt.shared_by([test])
    assert len(shared) == len(prompt.shared) - 1
    (own, _) = prompt.follow(test, shared)
    turns = [
        {"role": "user", "content": train[0]["input"]},
        {"role": "assistant", "content": train[0]["target"]},
        {"role": "user", "content": test[0]["input"]},
    ]
    text = joined.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = joined.encode(text, add_special_tokens=False)
    assert [*shared, *own["input_ids"][: own["target_start"]]] == whole
    with pytest.raises(PipelineError, match="the prompt of example 0 does not begin as all others"):
        prompt.follow(test, prompt.shared)


def test_conversations_are_shown_turn_by_turn(tmp_path: Path) -> None:
    task = TaskParams(messages_column="talk", use_chat_template=True)
    rendered = Renderer(task, tiny_tokenizer())
    system = {"role": "system", "content": "Be short."}
    talk = [system, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"},
            {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]  # fmt: skip
    save_splits({"test": [rendered.tokenize({"id": "1", "talk": talk})]}, tmp_path)
    test = load_split(tmp_path, "test")
    prompt = FewShotPrompt(rendered, test.to_list(), "Be short.")
    shared = prompt.shared_by([test])
    (own,) = prompt.follow(test, shared)
    text = rendered.tokenizer.apply_chat_template(
        [*talk, *talk[1:4]], tokenize=False, add_generation_prompt=True
    )
    assert rendered.tokenizer.decode([*shared, *own["input_ids"]]) == f"{text}D<|im_end|>"


def test_the_datas_own_system_turn_stands_without_instructions(tmp_path: Path) -> None:
    rendered = Renderer(
        TaskParams(messages_column="talk", use_chat_template=True), tiny_tokenizer()
    )
    system = {"role": "system", "content": "Be short."}
    talks = [
        [system, {"role": "user", "content": asked}, {"role": "assistant", "content": "B"}]
        for asked in "AC"
    ]
    tokenized = [rendered.tokenize({"id": str(i), "talk": talk}) for i, talk in enumerate(talks)]
    save_splits({"test": tokenized}, tmp_path)
    test = load_split(tmp_path, "test")
    for said, before in ((None, [system]), (SAID, [{"role": "system", "content": SAID}])):
        prompt = FewShotPrompt(rendered, test.to_list()[:1], said)
        shared = prompt.shared_by([test])
        own = prompt.follow(test, shared)[1]
        text = rendered.tokenizer.apply_chat_template(
            [*before, *talks[0][1:], *talks[1][1:2]], tokenize=False, add_generation_prompt=True
        )
        assert rendered.tokenizer.decode([*shared, *own["input_ids"]]) == f"{text}B<|im_end|>"


def test_an_answer_with_blank_lines_is_not_cut_at_one(tmp_path: Path) -> None:
    rendered = renderer("plain")
    values = {"key": "k", "record": "r", "value": "One.\n\nTwo.\n"}
    save_splits({"test": [rendered.tokenize({"id": "1", **values})]}, tmp_path)
    test = load_split(tmp_path, "test")
    prompt = FewShotPrompt(rendered, test.to_list())
    assert prompt.until == "\n\n\n"
    shared = prompt.shared_by([test])
    (own,) = prompt.follow(test, shared)
    decode = rendered.tokenizer.decode
    assert decode(shared) == "<bos>r\nk?\nOne.\n\nTwo.\n\n\n\n"
    # All of what ends it: the first of these tokens stands within the answer as well.
    assert decode(own["input_ids"][own["target_start"] :]) == "One.\n\nTwo.\n\n\n\n"


def finished(root: Path, template: str, **few_shot: Any) -> ForBaseline:
    """A folder with tokenized splits, and `baselines.shown` of params.yaml."""
    baseline = {"type": "few_shot", **few_shot}
    is_chat = template != "plain"
    return make_baseline_folder(root, tokenizer_of(template), is_chat, SAID, baseline)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["plain", "gemma"])
def test_the_stage_takes_what_validation_likes_best_and_measures_it(
    template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    context = finished(tmp_path, template, shots=[1, 2, 3], instructions="said.txt")
    baselines.run(context.params, "shown")
    model = context.frozen_model
    splits = {n: load_split(paths.TOKENIZED / "splits", n) for n in ("validation", "test")}

    def losses(split: str, shots: int) -> list[float]:
        prompt = context.few_shot(shots, SAID, 0)
        shared = prompt.shared_by(context.splits)
        found = []
        for row in prompt.follow(splits[split], shared):
            ids = torch.tensor([[*shared, *row["input_ids"]]])
            targets = len(row["input_ids"]) - row["target_start"]
            with torch.no_grad():
                logits = model(ids).logits[0, -targets - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, -targets:], reduction="sum")
            found.append(loss.item())
        return found

    by_validation = {shots: sum(losses("validation", shots)) for shots in (1, 2, 3)}
    best = min(by_validation, key=lambda shots: by_validation[shots])
    metrics = read_json(paths.EVALUATE / "shown" / "metrics.json")
    assert metrics["shots"] == best
    lines = read_jsonl(paths.EVALUATE / "shown" / "predictions.jsonl")
    for split in ("validation", "test"):
        measured = [line["loss"] for line in lines if line["split"] == split]
        assert measured == pytest.approx(losses(split, best), rel=1e-4)
    shared = context.few_shot(best, SAID, 0).shared_by(context.splits)
    assert metrics["context_tokens"] == len(shared)
    # 2 layers of keys and values, 2 heads of 8 numbers, 4 bytes each.
    assert metrics["cache_bytes"] == len(shared) * 2 * 2 * 2 * 8 * 4
    assert metrics["stored_bytes"] == 4 * len(shared)
    assert capsys.readouterr().out.count("validation loss") == 3


@pytest.mark.slow
def test_as_many_examples_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context = finished(tmp_path, "chatml")
    room = context.room_before(context.few_shot(1, None, 0))
    assert room is not None

    def tokens(shots: int) -> int:
        return len(context.few_shot(shots, None, 0).shared)

    def numbers(**changes: Any) -> list[int]:
        few_shot = FewShot(type="few_shot", path="said.txt", **changes)
        return [choice.facts["shots"] for choice in few_shot.choices(context)]

    most = max(shots for shots in range(1, 13) if tokens(shots) <= room)
    assert 4 < most < 12
    assert numbers() == sorted({1, 2, 4, most} | ({8} if most > 8 else set()))
    assert numbers(shots=[2, 100]) == [2, most]
    assert numbers(max_tokens=tokens(3)) == [1, 2, 3]
    assert numbers(max_tokens=tokens(3) - 1, shots=[3]) == [2]
    # What is generated after the longest input still has a position.
    prompt = context.few_shot(most, None, 0)
    followed = [prompt.follow(split, prompt.shared) for split in context.splits]
    longest = max(start for split in followed for start in split["target_start"])
    assert tokens(most) + longest + context.params.evaluate.max_new_tokens <= 512
    with pytest.raises(PipelineError, match="one training example after the instructions takes"):
        numbers(max_tokens=tokens(1) - 1)
    (tmp_path / "empty.txt").write_text(" \n")
    few_shot = FewShot(type="few_shot", path="empty.txt", instructions="empty.txt")
    with pytest.raises(PipelineError, match=r"the instructions in 'empty\.txt' are empty"):
        next(few_shot.choices(context))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen3_next"])
def test_fewer_examples_are_the_beginning_of_more(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model reads the longest context alone, but where its states are of a whole text."""
    monkeypatch.chdir(tmp_path)
    context = finished(tmp_path, "chatml")
    if name == "qwen3_next":
        context.__dict__["frozen_model"] = qwen3_next()
    read: list[int] = []

    def reading(model: Any, tokens: Any) -> KVPrefix:
        read.append(len(tokens))
        return kv_prefix_from_tokens(model, tokens)

    monkeypatch.setattr("pipeline.prefix.kv_prefix_from_tokens", reading)
    choices = list(FewShot(type="few_shot", path="said.txt", shots=[1, 2, 3]).choices(context))
    texts = [context.few_shot(n, None, 0).shared_by(context.splits) for n in (1, 2, 3)]
    assert read == [len(text) for text in (texts[2:] if name == "llama" else texts[2:] + texts[:2])]
    for choice, text in zip(choices, texts, strict=True):
        assert choice.kv is not None
        expected = kv_prefix_from_tokens(context.frozen_model, text)
        assert choice.kv.states.keys() == expected.states.keys()
        for ours, alone in (
            *zip(choice.kv.keys, expected.keys, strict=True),
            *zip(choice.kv.values, expected.values, strict=True),
            *((choice.kv.states[each], expected.states[each]) for each in expected.states),
        ):
            torch.testing.assert_close(ours, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("words", [200, 2000])
def test_a_long_example_does_not_stand_alone(
    words: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fits or not: others are shown."""
    monkeypatch.chdir(tmp_path)
    context = finished(tmp_path, "chatml")
    (first,) = context.few_shot(1, None, 0).shown
    examples = [
        {**row, "input": row["input"] + words * " x", "input_ids": row["input_ids"] + words * [9]}
        if row["id"] == first["id"]
        else row
        for row in load_split(paths.TOKENIZED / "splits", "train")
    ]
    context.__dict__["_train"] = Dataset.from_list(examples)
    few_shot = FewShot(type="few_shot", path="said.txt")
    shots = [choice.facts["shots"] for choice in few_shot.choices(context)]
    assert shots[:3] == [1, 2, 4]
    # Where all are long, as many as fit are shown all the same.
    limit = len(context.few_shot(2, None, 1).shared)
    few_shot = FewShot(type="few_shot", path="said.txt", max_tokens=limit - 10, seed=1)
    assert [choice.facts["shots"] for choice in few_shot.choices(context)] == [1]


def test_instructions_that_dvc_does_not_watch_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"does not hold instructions = 'texts/b\.txt'"):
        FewShot(type="few_shot", path="texts/a.txt", instructions="texts/b.txt")
    assert FewShot(type="few_shot", path="texts", instructions="texts/b.txt").instructions
