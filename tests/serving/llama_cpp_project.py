"""A project with a tiny model, its GGUF file and prefixes, served by llama.cpp's proxy."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
import uvicorn
from ruamel.yaml import YAML
from transformers import LlamaForCausalLM

from benchmarks.llama_gguf import write_gguf
from pipeline.config import Params, load_params
from pipeline.prefix import KVPrefix
from pipeline.serving.asked import Asked
from pipeline.serving.llama_cpp.proxy import Proxy
from tests.conftest import tiny_model, tiny_params, tiny_tokenizer

LONG, SHORT = "len4-random-seed0", "len2-random-seed0"
PREFIXES = {LONG: 4, SHORT: 2}
# Without flash attention float32 is what transformers computes to 1e-6; with it, to 1e-2.
OPTIONS: dict[str, Any] = {
    "cache_type": "f32",
    "flash_attn": False,
    "slots": 2,
    "context": 256,
    "threads": 1,
}
_PLACES = ("alba", "berlin", "cusco", "delhi", "essen", "fargo", "genoa", "hanoi", "izmir", "jena")
QUESTIONS = [
    f"size: {17 * number} km\nwhat is the size of {name}?"
    for number, name in enumerate((*_PLACES, "kyoto", "lima"))
]


def talking_model() -> LlamaForCausalLM:
    """A tiny model that writes nothing but letters and the end, each choice a clear one."""
    model = tiny_model(initializer_range=0.3)
    tokenizer = tiny_tokenizer()
    letters = [token for token in range(260) if tokenizer.decode([token]).strip().isalpha()]
    silent = torch.ones(260, dtype=torch.bool)
    silent[[*(t for t in letters if tokenizer.decode([t]).isascii()), 2]] = False
    with torch.no_grad():
        model.lm_head.weight[silent] = 0
        model.lm_head.weight[2] *= 0.5
        # Attention weighs, so that answers depend on what was asked, and after which prefix.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 4
    return model


def make_project(root: Path) -> Params:
    """Params, model, GGUF file (`model.gguf`) and prefixes in `root`, which has to be the home."""
    model = talking_model()
    model.save_pretrained(root / "data/model")
    tiny_tokenizer().save_pretrained(root / "data/model")
    write_gguf(root / "model.gguf", model, tiny_tokenizer())
    for seed, (name, length) in enumerate(PREFIXES.items()):
        drawn = torch.Generator().manual_seed(seed)
        tensors = [torch.randn(2, length, 8, generator=drawn) for _ in range(4)]
        kv = KVPrefix(tuple(tensors[:2]), tuple(tensors[2:]))
        kv.save(root / "data/train" / name / "prefix.safetensors")
    params = tiny_params(root / "data/model")
    params["evaluate"] |= {"dtype": "float32", "max_new_tokens": 12, "device": "cpu"}
    params["serving"] = {"llama_cpp": {"gguf": "model.gguf", **OPTIONS}}
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    return load_params(root / "params.yaml")


def asked_of(params: Params, *names: str, api_key: str | None = None) -> Asked:
    """These variants by their own names, and the frozen model as `frozen`."""
    return Asked(params, "frozen", {name: name for name in names}, "127.0.0.1", 0, api_key)


@contextmanager
def listening(proxy: Proxy) -> Iterator[str]:
    """The proxy at a free port of this process; yields its address."""
    server = uvicorn.Server(uvicorn.Config(proxy.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, model: str, question: str, timeout: float = 60, **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": question}], **more}
    response = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=timeout)
    return {**response.json(), "status": response.status_code}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"]).strip()


def lines_of(response: httpx2.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]
