"""The census of architectures: a type of each family as the page has it, and what makes a row."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.census import running
from benchmarks.census.__main__ import main
from benchmarks.census.attempts import NotMeasuredError, Problem
from benchmarks.census.checks import Checked
from benchmarks.census.configurations import tiny_config
from benchmarks.census.examination import Found, examined
from benchmarks.census.expected import Expected, expected_of
from benchmarks.census.models import build
from benchmarks.census.ours import check_ours
from benchmarks.census.rows import Row, all_rows, shard_of
from benchmarks.census.table import BEGIN, END, read_page, write_page
from benchmarks.census.verdicts import CAVEAT, EXACT, FAILED, REFUSED, Verdict, judged
from pipeline.prefix import KVPrefix, PrefixModel
from tests import forking
from tests.conftest import REAL, ROOT, WHOLE_SWEEPS


@pytest.mark.slow
def test_types_of_all_families_are_as_the_page_says() -> None:
    """One type of each family, in `make test-all` a third of all; `make census` writes the page."""
    python = (forking.commands() or REAL) / "python"
    shard = "1/3" if WHOLE_SWEEPS else "1/99"
    command = [str(python), "-m", "benchmarks.census", "--group", "causal", "--shard", shard]
    result = subprocess.run(
        [*command, "--no-peft", "--json", "--jobs", "1", "--limit", "120"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout, result.stderr
    found = {row["name"]: row["verdict"] for row in json.loads(result.stdout)}
    assert not {name: one for name, one in found.items() if one["word"] == FAILED}
    written = {
        name: row.verdict.word
        for (group, name), row in read_page().items()
        if group == "causal" and name in found
    }
    assert {name: one["word"] for name, one in found.items()} == written


def test_the_page_has_a_row_for_every_type_that_transformers_knows() -> None:
    """A new release of transformers shows here: `make census` adds its types."""
    assert {(row.group, row.name) for row in all_rows()} == read_page().keys()
    types = {row.model_type for row in all_rows() if row.group == "causal"}
    assert types == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_thirds_are_a_whole_and_the_first_has_each_family() -> None:
    names = ("llama", "qwen2", "mistral", "mamba", "gpt2", "lfm2", "bloom", "opt")
    rows = [row for row in all_rows() if row.group == "causal" and row.name in names]
    thirds = [shard_of(rows, index, 3) for index in (1, 2, 3)]
    assert sorted(row.name for third in thirds for row in third) == sorted(names)
    first = {row.name for row in thirds[0]}
    assert {"lfm2", "mamba"} <= first
    assert first & {"mistral", "qwen2"}


class UnheardConfig(LlamaConfig):
    """As of a type that a later release brings."""

    model_type = "unheard"
    layer_types: list[str] | None = None
    unheard_width: int = 40_000_000


class UnheardForCausalLM(LlamaForCausalLM):
    config_class = UnheardConfig


@pytest.fixture(scope="module", autouse=True)
def _unheard() -> None:
    AutoConfig.register("unheard", UnheardConfig)
    AutoModelForCausalLM.register(UnheardConfig, UnheardForCausalLM)


def test_an_unknown_type_is_made_small_by_the_names_of_its_fields() -> None:
    config = tiny_config("unheard", {"sliding_window": None})
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 4, 97)
    found = examined(Row("unheard", "causal", "unheard"), asks_peft=False)
    assert found.verdict.word == EXACT


def test_what_cannot_be_made_small_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wide(LlamaForCausalLM):
        def __init__(self, config: UnheardConfig) -> None:
            super().__init__(config)
            self.wide = torch.nn.Linear(config.unheard_width, 1, device="meta")

    monkeypatch.setitem(AutoModelForCausalLM._model_mapping._extra_content, UnheardConfig, Wide)
    row = Row("unheard", "causal", "unheard")
    with pytest.raises(NotMeasuredError, match=r"it keeps 40,\d+,\d+ parameters"):
        build(row)
    verdict = examined(row).verdict
    assert verdict.word == "not measured"
    assert verdict.why.startswith("it cannot be made small: it keeps 40,")


def hangs(row: Row, asks_peft: bool = True) -> Found:
    """In the place of `examined`: one row hangs, one dies, one is found."""
    if row.name == "hangs":
        time.sleep(60)
    if row.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print("noise that no reader of JSON wants")
    return Found(row.name, row.group, Verdict(EXACT))


def test_a_row_that_hangs_or_dies_fails_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "examined", hangs)
    rows = [Row(name, "causal", "llama") for name in ("hangs", "dies", "a", "b")]
    found = {one.name: one.verdict for one in running.run(rows, jobs=2, limit=2)}
    assert found["a"].word == found["b"].word == EXACT
    assert (found["hangs"].word, found["hangs"].why) == (FAILED, "it took more than 2 seconds")
    assert (found["dies"].word, found["dies"].why) == (FAILED, "its process died with exit code -9")
    assert capfd.readouterr().out == ""


@pytest.fixture(scope="module")
def expected() -> Expected:
    return expected_of(build(Row("llama", "causal", "llama")))


def test_a_wrong_number_fails(expected: Expected) -> None:
    """The text's prefix, off in one layer by a tenth: what this is for."""
    model = build(Row("llama", "causal", "llama"))
    assert judged(check_ours(model, expected), expected).word == EXACT
    load = PrefixModel.load_kv_prefix

    def off(self: PrefixModel, kv: KVPrefix) -> None:
        load(self, KVPrefix((kv.keys[0] * 1.1, *kv.keys[1:]), kv.values))

    with mock.patch.object(PrefixModel, "load_kv_prefix", off):
        verdict = judged(check_ours(model, expected), expected)
    assert verdict.word == FAILED
    assert verdict.why.startswith("logits are off by ")
    assert "packed rows" in verdict.why


@pytest.mark.parametrize(
    ("changes", "word", "why"),
    [
        ({}, EXACT, ""),
        ({"start": Problem("no place for a prefix", True)}, REFUSED, "no place for a prefix"),
        ({"start": Problem("TypeError: x")}, FAILED, "TypeError: x"),
        ({"identity": 2e-4}, FAILED, "logits are off by 2e-04, where the text changes them by"),
        ({"generation": Problem("IndexError: y")}, FAILED, "generation: IndexError: y"),
        ({"padding": {"left": 1.0}}, FAILED, "left padding is off by 1e+00"),
        (
            {"padding": {"left": Problem("pad right", True), "right": 1e-6}},
            CAVEAT,
            "left padding, in which the model itself is exact, is refused: pad right",
        ),
        ({"padding": {"left": Problem("KeyError: z")}}, FAILED, "left padding: KeyError: z"),
        ({"gradient": ["layer 2"]}, CAVEAT, "no gradient reaches layer 2"),
        ({"gradient": ["index of layer 2"]}, EXACT, "no gradient reaches index of layer 2"),
        ({"slope": 0.3}, FAILED, "the gradient's slope is off by 3e-01"),
        ({"packed": 0.5}, FAILED, "packed rows are off by 5e-01"),
        ({"left_behind": 0.5}, FAILED, "the model without its prefix is off by 5e-01"),
    ],
)
def test_what_checks_come_to(
    expected: Expected, changes: dict[str, Any], word: str, why: str
) -> None:
    verdict = judged(Checked(**changes), expected)
    assert verdict.word == word
    assert verdict.why.startswith(why)


def test_the_page_keeps_what_stands_around_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}| old | exact |\n{END}## After\n")
    found = [
        Found("llama", "causal", Verdict(EXACT, error=1e-6, padding="left"), Verdict("wrong", "x")),
        Found("b (c)", "variants", Verdict(REFUSED, "has <none>")),
    ]
    write_page(found, page=page)
    written = page.read_text()
    assert written.startswith(f"# Before\n{BEGIN}Made by `python -m benchmarks.census")
    assert written.endswith(f"{END}## After\n")
    assert "| llama | exact | 1e-06 | left |  | wrong: x |  |" in written
    assert "| old |" not in written
    assert list(read_page(page).values()) == found
    again = Found("llama", "causal", Verdict(CAVEAT, "left | right", 2e-6), Verdict(EXACT))
    write_page([again], whole=False, page=page)
    assert list(read_page(page).values()) == [again, found[1]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "lama"], "no row is called lama; did you mean llama?"),
        (["--shard", "4/3"], "'4/3' is no part of a whole; 1/3 is the first of three"),
        (["--write", "--no-peft"], "--write needs PEFT's column; leave --no-peft out"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert said in result.output
