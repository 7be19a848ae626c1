"""The benchmark of decoding measures what there is, with a C++ compiler and without."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import decoding
from pipeline.prefix.packed.kernel.few_tokens import bound
from pipeline.workspace import paths
from tests.conftest import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("has_compiler", [True, False])
def test_in_miniature(has_compiler: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained(paths.MODEL)
    tiny_tokenizer().save_pretrained(paths.MODEL)
    if not has_compiler:
        for module in (bound, decoding):
            monkeypatch.setattr(module, "kernel_lanes", lambda: None)
    with_kernel = decoding.kernel_lanes() is not None
    # It sets the threads of this process, which other tests go on with.
    threads = str(torch.get_num_threads())
    options = ["--rows", "1,2", "--steps", "1", "--rounds", "1", "--threads", threads]
    found = CliRunner().invoke(decoding.main, options, catch_exceptions=False)
    assert ("there is no kernel; torch is measured alone" in found.stderr) != with_kernel
    heads, _, *rows = (line for line in found.stdout.splitlines() if line.startswith("|"))
    ways = ["layers by torch", *(["by the kernel"] if with_kernel else [])]
    shown = [cell.strip() for cell in heads.strip("|").split("|")]
    assert shown == ["dtype", "rows", *ways, "weights read once"]
    assert [row.split()[1] for row in rows] == ["float32", "float32", "bfloat16", "bfloat16"]
