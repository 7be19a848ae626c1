"""One rule for what a request's input becomes, whichever engine answers."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from pipeline.serving.prompts import Prompts
from pipeline.serving.refusals import Refusal
from tests.conftest import tiny_tokenizer
from tests.tokenizers import tokenizer_that
from tests.vllm_project import NAMES, manifest_of, vllm_project, write_folder

TASK = TaskParams(input_template="{{ x }}", target_template="{{ y }}", use_chat_template=False)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("has_bos", [False, True])
@pytest.mark.parametrize("begins_text", [False, True])
def test_without_a_chat_template_a_chat_reads_as_a_completion(
    has_bos: bool, begins_text: bool
) -> None:
    tokenizer = tokenizer_that(has_bos)
    prompts = Prompts(TASK, tokenizer, len(tokenizer))
    text = " size: 3 km\n\n"
    ids = prompts.of_turns([user(text)], begins_text)
    assert ids == prompts.of_text(text, begins_text) == prompts.of_text(ids, begins_text)
    assert ids == Renderer(TASK, tokenizer).prompt_ids(text, begins_text)
    assert (ids[0] == tokenizer.bos_token_id) == (has_bos and not begins_text)


@pytest.mark.parametrize(
    "turns",
    [
        [user("x"), {"role": "assistant", "content": "y"}, user("z")],
        [{"role": "system", "content": "x"}, user("y")],
        [{"role": "assistant", "content": "x"}],
    ],
)
def test_without_a_chat_template_other_conversations_are_refused(turns: Any) -> None:
    prompts = Prompts(TASK, tiny_tokenizer(), 260)
    with pytest.raises(Refusal, match="a chat is one message of a user, whose content is an input"):
        prompts.of_turns(turns, False)


def test_vllm_s_template_writes_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = vllm_project(tmp_path, use_chat_template=False, system_prompt=None)
    write_folder(params, NAMES, Path("served"))
    from pipeline.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path("data/model"))
    template = Path("served/chat_template.jinja").read_text()
    prompts = Prompts(params.task, tokenizer, len(tokenizer))
    text = " size: 3 km\n\n"
    known = manifest_of(Path("served"))["prefixes"]
    for name, about in (*known.items(), (None, {"ids": [], "begins_text": False})):
        ids = tokenizer.apply_chat_template(
            [user(text)],
            chat_template=template,
            add_generation_prompt=True,
            return_dict=False,
            prefix=name,
        )
        assert ids == about["ids"] + prompts.of_turns([user(text)], about["begins_text"])
    with pytest.raises(Exception, match="a chat is one message of a user"):
        tokenizer.apply_chat_template([user("x"), user("y")], chat_template=template)
