"""vLLM itself with prefixes of SmolLM2: the answers are those of this project (`make test-vllm`).

It takes vLLM's own environment, whose interpreter the variable VLLM_PYTHON names. The prefixes are
caches of texts with noise on them, so that they are no text any more and need no training.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from tabulate import tabulate

from pipeline.config import Params
from pipeline.config.load import load_params
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.inference.selection import load_prefix
from pipeline.models.frozen import load_frozen_model
from pipeline.models.precision import multiplies
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix, kv_prefix_from_text
from pipeline.schema.compute import Compute
from pipeline.serving.vllm.command import serve_arguments, serve_command, serve_environment
from pipeline.sources.model import fetch_model
from pipeline.sweep.grid import sweep
from pipeline.workspace import paths
from tests.conftest import ROOT
from tests.test_smollm2 import QUESTIONS
from tests.vllm_project import manifest_of, write_folder

PYTHON = os.environ.get("VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no environment with vLLM"),
]

ASKED = QUESTIONS[:12]
DECODING = Decoding(24)
FROZEN = "smollm2"
# So few and small blocks that requests are preempted, and a prompt takes several steps.
SMALL = (
    *("--block-size", "32", "--num-gpu-blocks-override", "24", "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "48", "--max-model-len", "512", "--enforce-eager"),
)


@pytest.fixture(scope="module")
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """The default params with SmolLM2 and four prefixes, as working directory; their names."""
    cache = request.config.cache
    assert cache is not None
    kept = Path(cache.mkdir("smollm2")) / "model"
    if not (kept / "config.json").exists():
        fetch_model(load_params(ROOT / "params.yaml").model, kept)
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "data").mkdir()
    (folder / "data" / "model").symlink_to(kept.resolve())
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        variants = sweep(load_params())[:4]
        model = load_frozen_model(kept, Compute(dtype="float32"))
        tokenizer = load_tokenizer(kept)
        draw = torch.Generator().manual_seed(0)
        for number, variant in enumerate(variants):
            text = " ".join(f"Answer number {i} in {number + 2} words." for i in range(40))
            kv = kv_prefix_from_text(model, tokenizer, text, variant.length)

            def noisy(tensor: torch.Tensor) -> torch.Tensor:
                noise = torch.randn(tensor.shape, generator=draw) * tensor.std() / 20
                return tensor.detach() + noise

            path = folder / "data" / "train" / variant.name / "prefix.safetensors"
            KVPrefix(tuple(map(noisy, kv.keys)), tuple(map(noisy, kv.values))).save(path)
        yield [variant.name for variant in variants]


@dataclass
class Server:
    """A vLLM that answers, with its folder of prefixes, and what this project answers."""

    url: str
    folder: Path
    params: Params
    generators: dict[str, TextGenerator]
    expected: dict[str, list[str]]

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The status of a request, and its JSON."""
        whole = {"model": FROZEN, "temperature": 0, "max_tokens": DECODING.max_new_tokens}
        data = json.dumps({**whole, **body}).encode()
        request = Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=900) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except HTTPError as error:
            return error.code, json.loads(error.read())

    def chat(self, name: str | None, question: str, **more: Any) -> tuple[str, Mapping[str, Any]]:
        """The answer to a chat with a prefix, None for none, and what vLLM counts of it."""
        messages = [{"role": "user", "content": question}]
        asked = {"messages": messages, "model": name or FROZEN, **more}
        status, answer = self.post("/v1/chat/completions", asked)
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"].strip(), answer["usage"]

    def chats(self, asked: Sequence[tuple[str | None, str]], **more: Any) -> list[str]:
        """Answers to chats that come all at once."""
        with ThreadPoolExecutor(len(asked)) as pool:
            return list(pool.map(lambda pair: self.chat(*pair, **more)[0], asked))

    def preemptions(self) -> float:
        with urlopen(f"{self.url}/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(r"^vllm:num_preemptions_total\{.*\} ([\d.e+]+)$", text, re.MULTILINE)
        return sum(map(float, found))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def server(request: pytest.FixtureRequest, project: list[str]) -> Iterator[Server]:
    dtype: str = request.param
    params = load_params()
    params = params.model_copy(
        update={"evaluate": params.evaluate.model_copy(update={"dtype": dtype})}
    )
    folder = Path(f"served-{dtype}")
    write_folder(params, project, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = serve_arguments(
        folder.resolve(),
        str(Path("data/model").resolve()),
        [FROZEN, *project],
        dtype,
        (*SMALL, "--host", "127.0.0.1", "--port", str(port)),
    )
    environment = {
        **serve_environment(folder),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # which may reset the prefix cache
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    log = Path(f"vllm-{dtype}.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            serve_command(PYTHON, arguments),
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        # While vLLM starts.
        generators = _generators(params, project)
        expected = {
            name: [generator(q, DECODING) for q in (ASKED if name == project[0] else ASKED[:3])]
            for name, generator in generators.items()
        }
        _wait(process, url, log)
        yield Server(url, folder, params, generators, expected)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _generators(params: Params, names: Sequence[str]) -> dict[str, TextGenerator]:
    """This project's own, which share a frozen model."""
    frozen = load_frozen_model(paths.MODEL, params.evaluate)
    tokenizer = load_tokenizer(paths.MODEL)
    return {
        name: TextGenerator(
            prefixed_model(frozen, load_prefix(params, name, frozen)), tokenizer, params.task
        )
        for name in names
    }


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(1800):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urlopen(f"{url}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


TOLD: dict[str, dict[str, object]] = {}


def told(server: Server, what: str, value: object) -> None:
    """A cell of the table in docs/serving_vllm.md, which is printed in the end."""
    TOLD.setdefault(what, {})[server.params.evaluate.dtype] = value


def rounds_as_this_project(server: Server) -> bool:
    """Whether a greedy answer is the same in both: in bfloat16 each engine rounds at places of its
    own, and a near tie goes either way."""
    return server.params.evaluate.dtype == "float32"


def rounds_alike_in_company(server: Server) -> bool:
    """Whether vLLM's own answers are the same together and alone: with a CPU's instructions for
    bfloat16 its products round by how many tokens there are."""
    return server.params.evaluate.dtype == "float32" or not multiplies(torch.bfloat16)


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    """Print what was found, with the releases of both environments, whatever failed."""
    yield
    code = (
        "import vllm, torch, transformers\n"
        "print('vLLM', vllm.__version__, 'torch', torch.__version__, 'transformers', "
        "transformers.__version__)"
    )
    asked = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    ours = f"torch {torch.__version__} transformers {version('transformers')}"
    dtypes = list(dict.fromkeys(dtype for cells in TOLD.values() for dtype in cells))
    rows = [[what, *(cells.get(each, "") for each in dtypes)] for what, cells in TOLD.items()]
    print(f"\n\n{asked.stdout.strip().splitlines()[-1:]}; this project: {ours}\n")
    print(tabulate(rows, ["", *dtypes], tablefmt="github", disable_numparse=True))


def test_greedy_answers_are_this_projects(project: list[str], server: Server) -> None:
    """Over /v1/completions with token ids, and over /v1/chat/completions; all at once."""
    name = project[0]
    generator = server.generators[name]
    ids = manifest_of(server.folder)["prefixes"][name]["ids"]
    prompts = [generator._renderer.prompt_ids(q, generator.model.begins_text) for q in ASKED]
    status, answer = server.post("/v1/completions", {"prompt": [ids + p for p in prompts]})
    assert status == 200, answer
    texts = [choice["text"].strip() for choice in answer["choices"]]
    same = sum(map(str.__eq__, texts, server.expected[name]))
    told(server, "answers equal, /v1/completions", f"{same} of {len(ASKED)}")
    chats = server.chats([(name, question) for question in ASKED])
    same_chats = sum(map(str.__eq__, chats, server.expected[name]))
    told(server, "answers equal, /v1/chat/completions", f"{same_chats} of {len(ASKED)}")
    if rounds_as_this_project(server):
        assert texts == chats == server.expected[name]
    # Without the prefix none is.
    assert min(same, same_chats) >= len(ASKED) // 2
    assert server.chat(None, ASKED[0])[0] != texts[0]
    variables = {"chat_template_kwargs": {"prefix": name}}
    chosen = server.chat(None, ASKED[0], **variables)[0]
    status, answer = server.post("/v1/completions", {"model": name, "prompt": prompts[0]})
    named = answer["choices"][0]["text"].strip()
    assert chosen == named
    if rounds_alike_in_company(server):
        assert named == texts[0]
    _, usage = server.chat(name, ASKED[0])
    assert usage["prompt_tokens"] == len(ids) + len(prompts[0])


def test_four_prefixes_at_once_answer_as_each_alone(project: list[str], server: Server) -> None:
    """In a cache so small that requests are preempted and their prefixes loaded again."""
    asked = [(name, question) for question in ASKED[:3] for name in project]
    expected = [server.expected[name][ASKED.index(question)] for name, question in asked]
    together = server.chats(asked)
    same = sum(map(str.__eq__, together, expected))
    told(server, "four prefixes at once, answers equal", f"{same} of {len(asked)}")
    if rounds_as_this_project(server):
        assert together == expected
    assert same >= len(asked) // 2
    assert len(set(expected[: len(project)])) > 1
    everyone = [(name, question) for question in ASKED[:3] for name in (*project, None)]
    before = server.preemptions()
    long = {"max_tokens": 48, "ignore_eos": True}
    together = server.chats(everyone, **long)
    preempted = server.preemptions() - before
    alone = []
    for name, question in everyone:
        server.post("/reset_prefix_cache", {})
        alone.append(server.chat(name, question, **long)[0])
    same = sum(map(str.__eq__, together, alone))
    told(server, "48 tokens, together as alone", f"{same} of {len(everyone)}")
    told(server, "preemptions meanwhile", int(preempted))
    assert preempted > 0
    if rounds_alike_in_company(server):
        assert together == alone


def test_requests_that_lose_their_prefix_are_refused(project: list[str], server: Server) -> None:
    about = manifest_of(server.folder)["prefixes"][project[0]]
    ids, text = about["ids"], about["text"]
    for what, path, body, reason in (
        ("prompt_logprobs", "completions", {"prompt": [*ids, 5], "prompt_logprobs": 1}, "logprobs"),
        (
            "echo with logprobs",
            "completions",
            {"prompt": f"{text}x", "echo": True, "logprobs": 1},
            "logprobs",
        ),
        ("placeholders alone", "completions", {"prompt": ids}, "a prefix and nothing else"),
        (
            "truncate_prompt_tokens",
            "completions",
            {"prompt": [*ids, 5], "truncate_prompt_tokens": 3},
            "cut the prefix",
        ),
        (
            "a prefix that is not there",
            "chat/completions",
            {
                "messages": [{"role": "user", "content": "x"}],
                "chat_template_kwargs": {"prefix": "len9"},
            },
            "there is no prefix len9",
        ),
    ):
        status, answer = server.post(f"/v1/{path}", body)
        told(server, what, f"refused with status {status}")
        assert status == 400, answer
        assert reason in json.dumps(answer)


def test_the_cards_code_answers(project: list[str], server: Server) -> None:
    card = (server.folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    code = code.replace("http://localhost:8000", server.url)
    said: list[str] = []
    exec(code, {"print": lambda text: said.append(text)})
    generator = server.generators[project[0]]
    most = server.params.evaluate.max_new_tokens
    if rounds_as_this_project(server):
        assert said == [generator("...", Decoding(most))]
    assert said
