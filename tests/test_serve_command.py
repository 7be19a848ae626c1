"""`python -m pipeline serve` over a finished sweep: its answers, its names, and its end."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tests.conftest import Workspace
from tests.test_using import predictions

pytestmark = pytest.mark.real


@contextmanager
def command(workspace: Workspace, *arguments: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """The command, and the address that it says once it answers."""
    process = subprocess.Popen(
        ["python", "-m", "pipeline", "serve", "--port", "0", *arguments],
        cwd=workspace.root,
        env=workspace.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        for said in process.stderr:
            if said.startswith("serving"):
                break
        assert " at http" in said, said
        yield process, said.partition(" at ")[2].partition(";")[0]
    finally:
        process.kill()
        process.wait()


def test_variants_answer_as_the_evaluation_and_a_signal_lets_answers_end(
    finished: Workspace,
) -> None:
    with command(finished) as (process, url):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        names = [model.id for model in client.models.list()]
        variants = [f"len{p}-{start}-seed0" for p in (2, 4) for start in ("random", "corpus")]
        assert sorted(names[1:]) == sorted([*variants, "best"])
        for name in variants:
            for row in predictions(finished, name)[:2]:
                turns: Any = [{"role": "user", "content": row["input"]}]
                reply = client.chat.completions.create(model=name, messages=turns)
                assert (reply.choices[0].message.content or "").strip() == row["prediction"]
        bare = client.completions.create(model=names[0], prompt="size", max_tokens=3)
        assert bare.usage is not None
        long: Any = {"max_tokens": 300, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model="best", prompt="x", stream=True, **long)
        chunks = iter(stream)
        next(chunks)
        process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
        said = threading.Thread(target=process.communicate)
        said.start()
        said.join(60)
        assert process.returncode == 0
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_names_of_prefixes_are_a_persons_own(finished: Workspace, tmp_path: Any) -> None:
    kept = finished.root / "data" / "train" / "len2-random-seed0" / "prefix.safetensors"
    arguments = ("--prefix", f"support={kept}", "--prefix", "faq=len4-corpus-seed0")
    with command(finished, *arguments) as (process, url):
        client = openai.OpenAI(base_url=url, api_key="none")
        assert [model.id for model in client.models.list()][1:] == ["support", "faq"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
