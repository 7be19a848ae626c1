"""Requests of different prefixes in one batch get the answers of each alone, by OpenAI's client."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.continuations import Batch
from pipeline.inference.decoding import Decoding
from pipeline.serving.batching.scheduler import QueueFullError, Scheduler
from pipeline.serving.batching.text import GrowingText
from tests.conftest import tiny_tokenizer
from tests.served import LENGTHS, Served, alone, served, tiny_models, until

pytestmark = pytest.mark.slow

TEXTS = ("size: 3 km", "x", "What is the area of Alba, in square kilometres?", "é—ü " * 9)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(tiny_models()) as running:
        yield running


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that take as long as those of a model which somebody would serve."""
    step = Batch.step

    def slow(batch: Batch[Any]) -> None:
        time.sleep(0.005)
        step(batch)

    monkeypatch.setattr(Batch, "step", slow)


def turns(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_two_hundred_requests_at_once_get_the_answers_of_each_alone(server: Served) -> None:
    """Of four prefixes and none, greedy and sampled, of several lengths, streamed and whole."""
    kinds = [
        (name, text, Decoding(tokens, temperature, seed=len(text)))
        for name in LENGTHS
        for text in TEXTS
        for tokens, temperature in ((3, 0.0), (9, 1.0))
    ]
    expected = {kind: server.alone(*kind) for kind in kinds}
    assert len(set(expected.values())) > len(kinds) / 2
    asked = [kinds[i % len(kinds)] for i in range(200)]
    random.Random(0).shuffle(asked)

    async def answer(client: Any, kind: tuple[str, str, Decoding], streamed: bool) -> str:
        name, text, decoding = kind
        reply = await client.chat.completions.create(
            model=name,
            messages=turns(text),
            max_completion_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            seed=decoding.seed,
            stream=streamed,
        )
        if not streamed:
            return str(reply.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in reply])

    async def all_at_once() -> list[str]:
        async with server.async_client() as client:
            answers = (answer(client, kind, i % 2 == 0) for i, kind in enumerate(asked))
            return await asyncio.gather(*answers)

    found = asyncio.run(all_at_once())
    assert [text.strip() for text in found] == [expected[kind] for kind in asked]
    until(lambda: server.scheduler.running == server.scheduler.cached_tokens == 0)


def test_rows_without_a_kernel_and_with_little_room() -> None:
    """Heads of 8 numbers, which torch's operators serve; three rows at once, and room for two."""
    models = tiny_models(head_dim=8)
    with served(models, max_running=3, max_cache_tokens=150) as running:
        kinds = [(name, text, Decoding(7)) for text in TEXTS[:2] for name in LENGTHS]
        prompts = [(name, turns(text)) for name, text, _ in kinds]

        async def all_at_once() -> list[str]:
            async with running.async_client() as client:
                replies = await asyncio.gather(
                    *(
                        client.chat.completions.create(model=name, messages=asked, max_tokens=7)
                        for name, asked in prompts
                    )
                )
            return [str(reply.choices[0].message.content).strip() for reply in replies]

        assert asyncio.run(all_at_once()) == [alone(models, *kind) for kind in kinds]


def test_completions_go_on_from_texts_and_tokens(server: Served) -> None:
    client = server.client()
    ids = tiny_tokenizer()("size: 3 km")["input_ids"]
    text = client.completions.create(model="five", prompt="size: 3 km", max_tokens=6)
    tokens = client.completions.create(model="five", prompt=ids, max_tokens=6)
    several = client.completions.create(model="five", prompt=["x", "size: 3 km"], max_tokens=6, n=2)
    assert text.choices[0].text == tokens.choices[0].text == several.choices[2].text
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert text.usage is not None
    # Virtual tokens are none.
    assert (text.usage.prompt_tokens, text.usage.completion_tokens) == (len(ids), 6)
    assert text.choices[0].finish_reason == "length"
    bare = client.completions.create(model="bare", prompt="size: 3 km", max_tokens=6)
    assert bare.choices[0].text != text.choices[0].text


def test_choices_of_one_request_are_drawn_apart(server: Served) -> None:
    def drawn(n: int, seed: int) -> list[str]:
        reply = server.client().completions.create(
            model="three", prompt="size", n=n, seed=seed, temperature=1.5, max_tokens=8
        )
        return [choice.text for choice in reply.choices]

    assert len(set(drawn(4, 1))) == 4
    assert drawn(4, 1)[:1] == drawn(1, 1)
    assert drawn(2, -5) == drawn(2, -5)


def test_streams_end_with_their_usage(server: Served) -> None:
    settings: Any = {"model": "one", "messages": turns("x"), "max_tokens": 5, "logprobs": True}
    whole = server.client().chat.completions.create(**settings, top_logprobs=3)
    chunks = list(
        server.client().chat.completions.create(
            **settings, top_logprobs=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(p.delta.content or "" for p in pieces) == whole.choices[0].message.content
    assert pieces[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    content = [token for p in pieces if p.logprobs for token in p.logprobs.content or ()]
    assert whole.choices[0].logprobs is not None
    assert content == whole.choices[0].logprobs.content
    for token in content:
        top = [each.logprob for each in token.top_logprobs]
        # Greedy: what was chosen is the likeliest.
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert token.logprob == top[0] < 0


def test_log_probabilities_of_a_completion(server: Served) -> None:
    reply = server.client().completions.create(
        model="one", prompt="size", max_tokens=5, logprobs=2, temperature=1.0, seed=3
    )
    shown = reply.choices[0].logprobs
    assert shown is not None
    assert len(shown.tokens or ()) == len(shown.token_logprobs or ()) == 5
    assert all(len(top) <= 2 for top in shown.top_logprobs or ())
    assert (shown.text_offset or [1])[0] == 0


def test_an_answer_ends_before_a_stop_string(server: Served) -> None:
    def answer(**more: Any) -> Any:
        reply = server.client().completions.create(
            model="five", prompt="size", max_tokens=30, **more
        )
        return reply.choices[0]

    whole = answer(extra_body={"ignore_eos": True})
    stop = whole.text[7:9]
    cut = answer(stop=["never there", stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, whole.finish_reason) == ("stop", "length")


def test_models_and_health_and_metrics(server: Served) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == list(LENGTHS)
    assert client.models.retrieve("five").id == "five"
    health = client.get(f"{server.url}/health", cast_to=object)
    assert health == {"status": "ok"}
    server.client().completions.create(model="one", prompt="x", max_tokens=3)
    until(lambda: server.scheduler.running == 0)
    text = str(client.get(f"{server.url}/metrics", cast_to=str))
    assert 'serve_requests_total{model="one",status="200"}' in text
    assert "serve_generated_tokens_total" in text
    assert "serve_running 0.0" in text


@pytest.mark.usefixtures("slowly")
def test_a_client_that_goes_away_frees_its_row(server: Served) -> None:
    settings: Any = {"prompt": "size", "extra_body": {"ignore_eos": True}, "max_tokens": 400}
    stream = server.client().completions.create(model="one", stream=True, **settings)
    next(iter(stream))
    assert server.scheduler.running == 1
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=0.3).completions.create(model="five", n=4, **settings)
    until(lambda: server.scheduler.running == server.scheduler.waiting == 0)
    assert server.scheduler.cached_tokens == 0


@pytest.mark.usefixtures("slowly")
def test_more_than_may_wait_is_refused() -> None:
    models = tiny_models()
    with served(models, max_running=1, max_waiting=2) as running:
        client = running.client()
        long: Any = {"prompt": "x", "max_tokens": 400, "extra_body": {"ignore_eos": True}}
        streams = [client.completions.create(model="one", stream=True, **long)]
        until(lambda: running.scheduler.running == 1)
        streams += [client.completions.create(model="one", stream=True, **long) for _ in range(2)]
        until(lambda: running.scheduler.waiting == 2)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="one", prompt="x")
        assert refused.value.code == "rate_limit_exceeded"
        for stream in streams:
            stream.close()
        until(lambda: running.scheduler.running == running.scheduler.waiting == 0)
        assert client.completions.create(model="one", prompt="x").choices[0].text


@pytest.mark.usefixtures("slowly")
def test_what_was_taken_is_finished_when_nothing_more_is() -> None:
    models = tiny_models()
    with served(models) as running:
        client = running.client()
        long: Any = {"max_tokens": 60, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model="one", prompt="x", stream=True, **long)
        next(iter(stream))
        running.scheduler.close()
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(model="one", prompt="x")
        assert refused.value.status_code == 503
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def test_a_failure_is_told_and_the_next_request_answered(
    server: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = server.client()
    expected = client.completions.create(model="five", prompt="x", max_tokens=4).choices[0].text
    forward = server.models.frozen_model.forward

    def failing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of something")

    monkeypatch.setattr(server.models.frozen_model, "forward", failing)
    with pytest.raises(openai.InternalServerError, match="could not be computed"):
        client.completions.create(model="five", prompt="x", max_tokens=4)
    monkeypatch.setattr(server.models.frozen_model, "forward", forward)
    assert client.completions.create(model="five", prompt="x", max_tokens=4).choices[0].text == (
        expected
    )
    assert server.scheduler.cached_tokens == 0
    assert "out of something" in capsys.readouterr().err


def test_a_queue_takes_all_choices_of_a_request_or_none() -> None:
    models = tiny_models()
    scheduler = Scheduler(models.frozen_model, 1, 2, 1000)
    choices: list[Any] = [object()] * 3
    with pytest.raises(QueueFullError):
        scheduler.submit(choices)
    assert scheduler.waiting == 0


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30),
    st.lists(st.text(st.sampled_from("abé x"), min_size=1, max_size=4), max_size=3),
)
@settings(deadline=None, max_examples=80)
def test_pieces_are_the_text_up_to_the_first_stop(text: str, stop: list[str]) -> None:
    """Token by token, where tokens are bytes and a character may be cut."""
    tokenizer = TOKENIZER
    ids = tokenizer(text)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    growing = GrowingText(tokenizer, stop)
    pieces = []
    for token in ids:
        pieces.append(growing.add(token))
        if growing.is_stopped:
            break
    else:
        pieces.append(growing.finish())
    seen = [whole[: end + 1] for end in range(len(whole))]
    first = next((part for part in seen if any(each in part for each in stop)), None)
    if first is not None:
        whole = whole[: min(first.index(each) for each in stop if each in first)]
    assert "".join(pieces) == growing.text == whole


TOKENIZER = tiny_tokenizer()


def test_the_benchmark_measures_a_server(server: Served, tmp_path: Path) -> None:
    from benchmarks.serving import main

    output = tmp_path / "serving.json"
    command = [f"{server.url}/v1", "--label", "tiny", "--model", "bare", "--model", "five"]
    command += ["--at-once", "1,3", "--tokens", "3", "--rounds", "2", "--output", str(output)]
    for label in ("tiny", "another"):
        command[2] = label
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    assert result.output.count("| another") == result.output.count("| tiny") == 4
    known = json.loads(output.read_text())
    assert known["tiny"]["five|3"]["tokens_per_second"][1] > 0
    command[4] = "nobody"
    assert "model_not_found" in CliRunner().invoke(main, command).output
