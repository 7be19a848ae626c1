"""What llama.cpp's tests share: a project, in whose folder they run, a server and the proxy."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Params
from pipeline.inference.generator import TextGenerator, generator_of
from pipeline.serving.llama_cpp.launching import running
from pipeline.serving.llama_cpp.proxy import Proxy
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.serving import prepare
from tests.serving.llama_cpp_project import (
    LONG,
    PREFIXES,
    SHORT,
    asked_of,
    listening,
    make_project,
)


@pytest.fixture(scope="package")
def llama_cpp_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """Params of a project, in whose folder the tests run."""
    before, root = Path.cwd(), tmp_path_factory.mktemp("llama-cpp")
    os.chdir(root)
    try:
        yield make_project(root)
    finally:
        os.chdir(before)


@pytest.fixture(scope="package")
def server(llama_cpp_project: Params) -> Iterator[LlamaServer]:
    with running(llama_cpp_project) as found:
        yield found


@pytest.fixture(scope="package")
def told() -> list[str]:
    return []


@pytest.fixture(scope="package")
def proxy(llama_cpp_project: Params, server: LlamaServer, told: list[str]) -> Proxy:
    return prepare(asked_of(llama_cpp_project, LONG, SHORT), server, told.append)


@pytest.fixture(scope="package")
def url(proxy: Proxy) -> Iterator[str]:
    with listening(proxy) as address:
        yield address


@pytest.fixture(scope="package")
def generators(llama_cpp_project: Params) -> dict[str, TextGenerator]:
    return {name: generator_of(llama_cpp_project, name) for name in PREFIXES}
