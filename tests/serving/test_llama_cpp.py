"""llama.cpp with a prefix answers as transformers does, at OpenAI's endpoints."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import torch

from pipeline.config import Params
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.serving import prepare
from tests.serving.llama_cpp_project import (
    LONG,
    PREFIXES,
    QUESTIONS,
    SHORT,
    ask,
    asked_of,
    lines_of,
    listening,
    text_of,
)

pytest.importorskip("xllamacpp", reason="llama.cpp's server is the extra llama_cpp")


def test_twelve_of_twelve_answers_are_ours_whoever_asks_at_once(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    work = [(name, question) for question in QUESTIONS for name in PREFIXES]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda w: text_of(ask(url, *w)), work))
    ours = [generators[name](question, Decoding(12)) for name, question in work]
    assert answers == ours
    # The prefixes weigh, and answers are not all one.
    assert len(set(ours)) == len(ours)


def test_log_probabilities_are_ours(url: str, generators: dict[str, TextGenerator]) -> None:
    for name, generator in generators.items():
        asked = {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 12}
        found = ask(url, name, QUESTIONS[0], **asked)["choices"][0]["logprobs"]["content"]
        prompt = torch.tensor([generator._renderer.prompt_ids(QUESTIONS[0])])
        made = generator.model.generate(
            input_ids=prompt,
            max_new_tokens=12,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=2,
            pad_token_id=3,
            do_sample=False,
        )
        assert len(found) == 12
        for step, token in enumerate(found):
            expected = made.logits[step][0].log_softmax(-1)
            top = [each["logprob"] for each in token["top_logprobs"]]
            assert top == pytest.approx(expected.topk(20).values.tolist(), abs=1e-3)


def test_the_frozen_model_alone_is_served_beside_them(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    listed = httpx2.get(f"{url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["frozen", LONG, SHORT]
    frozen = generators[LONG].model.frozen_model
    ids = torch.tensor([generators[LONG]._renderer.prompt_ids(QUESTIONS[0])])
    made = frozen.generate(ids, max_new_tokens=8, eos_token_id=2, pad_token_id=3, do_sample=False)
    expected = generators[LONG].tokenizer.decode(made[0, ids.shape[1] :]).strip()
    assert text_of(ask(url, "frozen", QUESTIONS[0], max_tokens=8)) == expected


def test_a_key_is_asked_of_every_request_where_there_is_one(
    llama_cpp_project: Params, server: LlamaServer
) -> None:
    proxy = prepare(asked_of(llama_cpp_project, api_key="secret"), server, print)
    with listening(proxy) as address:
        for header, status in (("", 401), ("Bearer other", 401), ("Bearer secret", 200)):
            headers = {"Authorization": header} if header else {}
            body = {"model": "frozen", "prompt": "a", "max_tokens": 1}
            for path, sent in (("models", None), ("completions", body)):
                method = "GET" if sent is None else "POST"
                found = httpx2.request(method, f"{address}/v1/{path}", json=sent, headers=headers)
                assert found.status_code == status
        assert httpx2.get(f"{address}/health").is_success


def test_an_answer_goes_on_where_the_end_is_ignored(url: str) -> None:
    answer = ask(url, LONG, QUESTIONS[0], ignore_eos=True, max_tokens=40)
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["choices"][0]["finish_reason"] == "length"


def test_what_was_found_is_told_in_a_sentence(url: str, told: list[str]) -> None:
    assert told[0].startswith("llama.cpp keeps keys permuted, rotary pairs side by side; of 32")
    assert "(cache f32, without flash attention, streams 2, state version 4)" in told[0]


def test_a_stream_says_the_same(url: str) -> None:
    whole = ask(url, LONG, QUESTIONS[1])
    body: dict[str, Any] = {"model": LONG}
    body["messages"] = [{"role": "user", "content": QUESTIONS[1]}]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *chunks, done = lines_of(response)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in parsed if c["choices"])
    assert said == whole["choices"][0]["message"]["content"]
    assert parsed[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert parsed[-1]["usage"] == whole["usage"]


def test_raw_completions_go_on_from_a_text_or_its_tokens(
    url: str, generators: dict[str, TextGenerator]
) -> None:
    generator = generators[SHORT]
    ids = generator.tokenizer.encode("size:", add_special_tokens=False)
    made = generator.model.generate(
        input_ids=torch.tensor([ids]),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=3,
    )
    expected = generator.tokenizer.decode(made[0, len(ids) :])
    for prompt in ("size:", ids):
        body = {"model": SHORT, "prompt": prompt, "max_tokens": 6}
        answer = httpx2.post(f"{url}/v1/completions", json=body).json()
        assert answer["choices"][0]["text"] == expected
        assert answer["usage"]["prompt_tokens"] == len(ids)


REFUSED = [
    ({"model": "len9"}, 404, "The model 'len9' does not exist"),
    ({"messages": []}, 400, "messages: "),
    ({"tools": [{}]}, 400, "tools: is not served, or unknown; leave it out"),
    ({"n": 2}, 400, "n: "),
    ({"presence_penalty": 0.5}, 400, "presence_penalty: "),
    ({"temperature": 3}, 400, "temperature: "),
    ({"max_tokens": 4000}, 400, "are more than a slot's 256 positions"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
]


@pytest.mark.parametrize(("change", "status", "message"), REFUSED)
def test_mistakes_are_told_in_openai_s_form(
    url: str, change: dict[str, Any], status: int, message: str
) -> None:
    body = {"model": LONG, "messages": [{"role": "user", "content": "size?"}], **change}
    response = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_an_empty_input_is_refused(url: str) -> None:
    prompts: dict[str, str | list[int]] = {"prompt: is empty": "", "prompt: ": []}
    for sentence, prompt in prompts.items():
        body = {"model": LONG, "prompt": prompt}
        response = httpx2.post(f"{url}/v1/completions", json=body)
        assert sentence in response.json()["error"]["message"]
    assert httpx2.get(f"{url}/v1/nothing").json()["error"]["message"] == "Not Found"
