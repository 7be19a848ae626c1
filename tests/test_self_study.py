"""Self-study: what is asked, what is kept of it, and that a killed one ends with the same bytes."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.self_study import SelfStudy, ServerGenerator
from pipeline.corpus.headings import headings_above
from pipeline.corpus.questions import normalized
from pipeline.corpus.seed_prompts import SEED_PROMPTS
from pipeline.errors import PipelineError
from pipeline.self_study.asking import tidy_question
from pipeline.self_study.drawing import Drawing
from pipeline.self_study.frozen_model import FrozenModelWriter
from pipeline.self_study.kept import KeptChunks
from pipeline.self_study.plan import Plan, plan_of
from pipeline.self_study.prompts import Prompts
from pipeline.self_study.server import ServerWriter
from pipeline.self_study.study import ask_all, write_study
from pipeline.self_study.writing import Request, Sampling, Written
from tests.conftest import tiny_model, tiny_tokenizer

TEXT = "Rivers are long. Lakes are wide.\n\nHills are high. Seas are deep and cold.\n\n" * 2
TOKENIZER = tiny_tokenizer()
GREEDY = Sampling(0.0, 1.0, 6)
DRAWN = Sampling(1.0, 0.9, 6)


def settings(folder: Path, **changes: Any) -> SelfStudy:
    corpus = folder / "corpus.txt"
    corpus.write_text(TEXT)
    return SelfStudy(
        **{
            **{"path": str(corpus), "held_out": "tests.jsonl", "chunk_tokens": 64},
            **{"questions_per_chunk": 3, "max_question_tokens": 5, "max_answer_tokens": 4},
            **{"unfinished": "keep", "temperature": 1.0},
            **changes,
        }
    )


class Echo:
    """Writes what it is told for each request, and counts them."""

    def __init__(self, texts: Sequence[str | Written] = ()) -> None:
        self.texts = list(texts)
        self.asked: list[tuple[str, Request]] = []

    def write(self, context: str, requests: Sequence[Request], _: Sampling) -> list[Written]:
        found = []
        for request in requests:
            self.asked.append((context, request))
            text = self.texts.pop(0) if self.texts else f"{request.seed}"
            found.append(text if isinstance(text, Written) else Written(text, True))
        return found


def studied(plan: Plan, writer: Any, folder: Path) -> dict[str, bytes]:
    kept = KeptChunks(folder / "kept")
    ask_all(plan, writer, kept, "notes")
    write_study(plan, kept, "notes", folder)
    names = ("train.jsonl", "validation.jsonl", "statistics.json", "summary.txt")
    return {name: (folder / name).read_bytes() for name in names}


def rows_of(found: dict[str, bytes]) -> list[dict[str, Any]]:
    lines = found["train.jsonl"].splitlines() + found["validation.jsonl"].splitlines()
    return [json.loads(line) for line in lines]


def test_prompts_take_turns_and_the_size_is_told_before(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path), TOKENIZER)
    assert (len(plan.chunks), plan.tokens) == (3, len(TEXT))
    kinds = [prompt.kind for index in range(3) for prompt in plan.prompts(index)]
    assert kinds == [*SEED_PROMPTS, *list(SEED_PROMPTS)[:4]]
    assert plan.size("notes") == (
        f"notes: 1 documents of {len(TEXT)} tokens in 3 chunks; 9 questions and as many answers, "
        f"at most 18 texts written, {len(TEXT)} tokens of chunks read and 81 tokens written"
    )
    writer = Echo()
    found = studied(plan, writer, tmp_path)
    assert len(writer.asked) == 18
    rows = rows_of(found)
    assert Counter(row["kind"] for row in rows) == Counter(kinds)
    assert {row["context"] for row in rows} == {chunk.context for chunk in plan.chunks}
    assert len({row["id"] for row in rows}) == 9
    statistics = json.loads(found["statistics.json"])
    assert statistics["rows"] == {"train": 8, "validation": 1}
    assert statistics["dropped"] == {}


def test_what_is_dropped_is_counted_and_not_answered(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path, unfinished="drop"), TOKENIZER)
    cut = Written("How long", False)
    writer = Echo(
        [
            *("Which?", "which !", ""),  # the second and the third have no answer
            "This.",
            *("Which", "How?", cut),
            "",
            *("One?", "Two?", "Three?"),
            *("1", Written("2", False), "3"),
        ]
    )
    found = studied(plan, writer, tmp_path)
    assert {row["question"] for row in rows_of(found)} == {"Which?", "One?", "Three?"}
    assert json.loads(found["statistics.json"])["dropped"] == {
        "empty answer": 1,
        "empty question": 1,
        "repeated question": 2,
        "unfinished answer": 1,
        "unfinished question": 1,
    }
    assert len(writer.asked) == 9 + 5


def test_a_summary_has_an_equal_share_of_its_tokens_for_each_chunk(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path, summary_tokens=50), TOKENIZER)
    assert plan.summary_share == 16
    assert plan.size("notes") == (
        f"notes: 1 documents of {len(TEXT)} tokens in 3 chunks; 9 questions and as many answers, "
        f"and 3 summaries, at most 21 texts written, {len(TEXT)} tokens of chunks read and 129 "
        "tokens written"
    )
    kept = KeptChunks(tmp_path / "kept")
    writer = Echo([*"abcdef", " Rivers,\n lakes. ", *"ghijkl", "", *"mnopqr", Written("Hi", False)])
    ask_all(plan, writer, kept, "notes")
    context, request = writer.asked[6]
    assert context == plan.chunks[0].context
    assert request.ask.startswith("Summarise the text above in at most 12 words.")
    write_study(plan, kept, "notes", tmp_path)
    assert (tmp_path / "summary.txt").read_text() == "Rivers, lakes.\nHi\n"
    # Of another length: what was asked stays as it is.
    longer = plan_of("notes", settings(tmp_path, summary_tokens=90), TOKENIZER)
    again = Echo(["X"] * 3)
    found = studied(longer, again, tmp_path)
    assert len(again.asked) == 3
    assert found["summary.txt"] == b"X\nX\nX\n"
    without = studied(plan_of("notes", settings(tmp_path), TOKENIZER), Echo(), tmp_path)
    assert {**found, "summary.txt": b""} == without
    with pytest.raises(PipelineError, match=r"47 are 15 for each of 3 chunks.* at least 48"):
        plan_of("notes", settings(tmp_path, summary_tokens=47), TOKENIZER)


def test_nothing_left_is_told_with_the_reasons(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path), TOKENIZER)
    with pytest.raises(PipelineError, match=r"of 9 questions 0 are left \(9 empty question\)"):
        studied(plan, Echo([""] * 9), tmp_path)


@pytest.mark.parametrize(
    ("written", "tidy"),
    [
        ('Question: "How long is it?"', "How long is it?"),
        ("Q1. How long?\nAnswer: 5 km", "How long?"),
        ("“Say it”", "Say it"),
        ('"A" or "B"?', '"A" or "B"?'),
        ('"', '"'),
        ("\n", ""),
    ],
)
def test_a_question_stands_alone(written: str, tidy: str) -> None:
    assert tidy_question(written) == tidy


def test_equal_questions_differ_by_case_space_and_punctuation_alone() -> None:
    assert normalized(" What is\tÉire's AREA?") == normalized("what is éire s area")
    assert normalized("What is C++?") != normalized("What is C?")
    assert normalized("?!") != normalized("...")


def model_writer(max_tokens: int = 4096, **changes: Any) -> FrozenModelWriter:
    return FrozenModelWriter(tiny_model(**changes), TOKENIZER, max_tokens)


def alone(model: Any, ids: list[int], most: int) -> list[int]:
    generated = model.generate(
        torch.tensor([ids]), max_new_tokens=most, do_sample=False, eos_token_id=[2]
    )
    return list(generated[0, len(ids) :].tolist())


def test_a_chunk_that_is_read_once_is_as_in_the_context() -> None:
    # Large weights: what it writes depends on every token before.
    model = tiny_model(initializer_range=0.5)
    prompts = Prompts(TOKENIZER)
    asks = ["Who?", "Where was it, and when?"]
    writer = FrozenModelWriter(model, TOKENIZER, 4096)
    written = writer.write("A text.", [Request(ask, 0) for ask in asks], GREEDY)
    writer.close()
    for ask, text in zip(asks, written, strict=True):
        ids = [*prompts.chunk("A text."), *prompts.asked("A text.", ask)]
        whole = TOKENIZER.decode(ids)
        assert whole.startswith("<|im_start|>user\nA text.\n\n" + ask)
        expected = [token for token in alone(model, ids, 6) if token != 2]
        assert text.text == TOKENIZER.decode(expected, skip_special_tokens=True).strip()


def test_without_a_chat_template_a_text_goes_on() -> None:
    plain = tiny_tokenizer()
    plain.chat_template = None
    prompts = Prompts(plain)
    ids = [*prompts.chunk("A text."), *prompts.asked("A text.", "Who?")]
    assert plain.decode(ids) == "A text.\n\nWho?\n"


def test_what_is_drawn_depends_on_its_own_seed_and_not_on_company() -> None:
    requests = [Request("Who?", 1), Request("Where is that?", 2), Request("Who?", 3)]
    together = model_writer().write("A text.", requests, DRAWN)
    assert together == model_writer(max_tokens=8).write("A text.", requests, DRAWN)
    assert together[2:] == model_writer().write("A text.", requests[2:], DRAWN)
    assert together[0] != together[2]


def test_tokens_are_drawn_from_the_nucleus() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    drawing = Drawing([0], Sampling(1.0, 0.6, 1))
    drawn = Counter(drawing([0], logits).item() for _ in range(400))
    assert set(drawn) == {1, 3}
    assert 0.45 < drawn[1] / 400 < 0.7  # 4 of 7
    assert Drawing([0], Sampling(0.0, 0.6, 1))([0], logits).item() == 1


def test_no_room_for_an_answer_is_one_sentence() -> None:
    with pytest.raises(PipelineError, match="more than the model's context of 512"):
        model_writer().write("A text.", [Request("x" * 500, 0)], GREEDY)


@pytest.mark.parametrize("writes", ["model", "echo"])
def test_stopped_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path, writes: str) -> None:
    plan = plan_of("notes", settings(tmp_path, summary_tokens=48), TOKENIZER)

    def writer() -> Any:
        return model_writer() if writes == "model" else Echo()

    (tmp_path / "whole").mkdir()
    whole = studied(plan, writer(), tmp_path / "whole")
    assert whole == studied(plan, writer(), tmp_path / "again")
    cuts = (1, 6, 10, 17) if writes == "echo" else (11,)
    for cut in cuts:
        folder = tmp_path / f"cut{cut}"
        with pytest.raises(KeyboardInterrupt):
            studied(plan, Stopped(writer(), cut), folder)
        assert not (folder / "train.jsonl").exists()
        rest = Stopped(writer(), 21)
        assert studied(plan, rest, folder) == whole
        # Finished chunks are asked for nothing again, nor is their summary.
        done = [0, 6, 7, 13, 14, 20]
        assert 21 - rest.left == 21 - max(count for count in done if count <= cut)


class Stopped:
    """A writer that is stopped after so many texts."""

    def __init__(self, writer: Any, left: int) -> None:
        self.writer, self.left = writer, left

    def write(self, context: str, requests: Sequence[Request], sampling: Sampling) -> list[Written]:
        if len(requests) > self.left:
            raise KeyboardInterrupt
        self.left -= len(requests)
        return list(self.writer.write(context, requests, sampling))


def test_a_damaged_chunk_is_asked_about_again(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path), TOKENIZER)
    whole = studied(plan, Echo(), tmp_path)
    (tmp_path / "kept" / "chunk-1.json").write_text("{")
    assert studied(plan, Echo(), tmp_path) == whole


class _Answers(BaseHTTPRequestHandler):
    """Speaks /v1/chat/completions: says what it was asked, and fails as it is told."""

    protocol_version = "HTTP/1.1"
    server: "LocalServer"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), asked))
        status = self.server.failures.pop(0) if self.server.failures else 200
        if status != 200:
            self._send(status, {"error": {"message": "no such model\nsorry", "type": "x"}})
            return
        content = asked["messages"][0]["content"].rpartition("\n\n")[2]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f" {content[:9]} {asked['seed']}\n"},
            "finish_reason": "length" if asked["max_tokens"] == 1 else "stop",
        }
        self._send(200, self.server.answer or {"object": "chat.completion", "choices": [choice]})

    def _send(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


class LocalServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.failures: list[int] = []
        self.answer: Any = None

    def generator(self, **changes: Any) -> ServerGenerator:
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return ServerGenerator(**{"type": "server", "url": url, "model": "m", **changes})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pipeline.self_study.server._FIRST_WAIT", 0.0)
    with LocalServer() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_server_is_asked_by_its_protocol(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET", "key-1")
    server.failures = [503, 429]
    writer = ServerWriter(server.generator(api_key_env="SECRET", parallel_requests=1), "g")
    plan = plan_of("notes", settings(tmp_path, generator=server.generator()), TOKENIZER)
    found = studied(plan, writer, tmp_path)
    writer.close()
    path, headers, asked = server.asked[2]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer key-1"
    first, prompt = plan.chunks[0].context, plan.prompts(0)[0].prompt
    seed = plan.request(0, 0, "", "question").seed % (2**31 - 1)
    assert asked == {
        "model": "m",
        "messages": [{"role": "user", "content": f"{first}\n\n{prompt}"}],
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": seed,
    }
    assert len(server.asked) == 2 + 18
    assert len(rows_of(found)) == 9
    assert "18 calls of the server" in plan.size("notes")
    assert plan.read == 6 * len(TEXT)
    assert b"key-1" not in b"".join(found.values())


def test_what_was_cut_off_by_a_server_is_unfinished(server: LocalServer) -> None:
    writer = ServerWriter(server.generator(), "g")
    for most, finished in ((1, False), (2, True)):
        written = writer.write("c", [Request("Why?", 7)] * 3, Sampling(0.0, 1.0, most))
        assert written == [Written("Why? 7", finished)] * 3


@pytest.mark.parametrize(
    ("failures", "answer", "sentence"),
    [
        ([404], None, "answered 404: no such model"),
        ([500] * 3, None, "answered 500: no such model"),
        ([], {"choices": []}, "answered with no choices[0].message.content"),
        ([], {"choices": [{"message": {"content": 1}}]}, "a message that is no text"),
        ([], "nothing", "answered with no choices[0].message.content"),
    ],
)
def test_a_server_that_fails_is_one_sentence(
    server: LocalServer, failures: list[int], answer: Any, sentence: str
) -> None:
    server.failures, server.answer = failures, answer
    writer = ServerWriter(server.generator(retries=1), "self_study.a.generator")
    with pytest.raises(PipelineError, match=r"^self_study\.a\.generator\.url: ") as told:
        writer.write("c", [Request("Why?", 7)], GREEDY)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_a_server_out_of_reach_and_a_key_that_is_not_set(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = server.generator(url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(PipelineError, match=r"is out of reach \(ConnectionError\); start it"):
        ServerWriter(nobody, "g").write("c", [Request("Why?", 7)], GREEDY)
    monkeypatch.delenv("SECRET", raising=False)
    with pytest.raises(PipelineError, match="environment variable 'SECRET' is not set"):
        ServerWriter(server.generator(api_key_env="SECRET"), "g")


MARKDOWN = (
    "# Niue\n\nAn island.\n\n## Geography\n\n"
    "Area: 260 sq km\n\nCoast: 64 km. It is steep and high.\n"
)


def test_recitals_are_the_text_itself_below_its_headings(tmp_path: Path) -> None:
    changes = {"chunk_tokens": 48, "recitals_per_chunk": 4, "questions_per_chunk": 2}
    own = settings(tmp_path, **changes)
    own = own.model_copy(update={"path": str(tmp_path / "corpus.md")})
    (tmp_path / "corpus.md").write_text(MARKDOWN)
    plan = plan_of("notes", own, TOKENIZER)
    assert plan.chunks[-1].context.startswith("# Niue\n\n## Geography\n\n")
    found = studied(plan, Echo(), tmp_path)
    recited = [row for row in rows_of(found) if row["kind"] == "recite"]
    assert 3 <= len(recited) < 4 * len(plan.chunks)  # some passages have no more places to break
    words = MARKDOWN.split()
    for row in recited:
        where, _, rest = row["question"].partition(": how does the text go on after ")
        assert where in ("Niue", "Niue, Geography")
        said = [*rest[1:-2].split(), *row["answer"].split()]
        assert any(words[i : i + len(said)] == said for i in range(len(words)))
    assert len({row["question"] for row in recited}) == len(recited)
    # All of them are trained on: validation is of the questions that a model asked.
    validation = [json.loads(line) for line in found["validation.jsonl"].splitlines()]
    assert validation
    assert all(row["kind"] != "recite" for row in validation)
    assert json.loads(found["statistics.json"])["rows_by_kind"]["recite"] == len(recited)
    assert studied(plan, Echo(), tmp_path) == found


def test_without_recitals_a_study_is_what_it_was(tmp_path: Path) -> None:
    plan = plan_of("notes", settings(tmp_path), TOKENIZER)
    assert all(row["kind"] != "recite" for row in rows_of(studied(plan, Echo(), tmp_path)))


@pytest.mark.parametrize(
    ("text", "at", "above"),
    [
        ("# A\n\n## B\n\nx", "x", ["A", "B"]),
        ("# A\n\n## B\n\n# C\n\nx", "x", ["C"]),
        ("# A\n\n## B\n\ny\n\n## C\n\nx", "## C", ["A"]),
        ("# A\n\n```\n# no heading\n```\n\nx", "x", ["A"]),
        ("#no heading\n\nx", "x", []),
        ("# A #\n\nx", "x", ["A"]),
    ],
)
def test_headings_above_a_place(text: str, at: str, above: list[str]) -> None:
    assert [words for _, words in headings_above(text, text.index(at))] == above
