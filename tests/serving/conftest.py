"""The project that llama.cpp's tests share, in its folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import Params
from tests.serving.llama_cpp_project import make_project


@pytest.fixture(scope="module")
def llama_cpp_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """Params of a project, in whose folder the tests run."""
    before, root = Path.cwd(), tmp_path_factory.mktemp("llama-cpp")
    os.chdir(root)
    try:
        yield make_project(root)
    finally:
        os.chdir(before)
