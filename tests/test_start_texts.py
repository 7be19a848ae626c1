"""A text that is too short for what starts from it is told before any stage reads it."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.initialization.from_text_file import tokens_up_to
from pipeline.preflight.texts import check_texts
from tests.written_sweep import params_of

TOO_FEW = "initializations.own.path: 'text.txt' has 9 tokens, "
CACHED = f"{TOO_FEW}fewer than kv_prefix.max_length = 10; use a longer text"
CHOSEN = f"{TOO_FEW}of which the 12 of a prefix cannot be chosen; use a longer text"


def check(kind: str, **sections: dict[str, Any]) -> None:
    """A text of nine words, which are its tokens, in a sweep of lengths 4 and another start."""
    given: dict[str, Any] = {
        "sweep": {"lengths": [4], "initializations": ["random"]},
        "kv_prefix": {"max_length": 10},
        "initializations": {
            "random": {"type": "random", "path": "data/model/config.json"},
            "own": {"type": kind, "path": "text.txt"},
        },
    }
    check_texts(params_of(**{**given, **sections}), lambda text: len(text.split()))


@pytest.fixture(autouse=True)
def _text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("one two three four five six seven eight nine")


@pytest.mark.parametrize("kind", ["corpus_text", "corpus_chunks", "averaged_chunks", "best_chunk"])
def test_what_is_cached_needs_as_many_tokens(kind: str) -> None:
    with pytest.raises(PipelineError, match=f"^{re.escape(CACHED)}"):
        check(kind)
    check(kind, kv_prefix={"max_length": 9})
    Path("text.txt").unlink()  # a stage may be yet to write it
    check(kind)


@pytest.mark.parametrize("kind", ["most_attended", "attention_matching"])
@pytest.mark.parametrize(
    "asking",
    [
        {"sweep": {"lengths": [4, 12], "initializations": ["random", "own"]}},
        {
            "trained_baselines": {
                "both": {"type": "prefix_and_lora", "initialization": "own", "length": 12}
            }
        },
        {"baselines": {"start": {"type": "untrained", "path": "data/kv_prefix/own", "length": 12}}},
    ],
    ids=["a variant", "beside LoRA", "untrained"],
)
def test_what_is_chosen_needs_as_many_as_the_longest_prefix(
    kind: str, asking: dict[str, Any]
) -> None:
    with pytest.raises(PipelineError, match=f"^{re.escape(CHOSEN)}"):
        check(kind, **asking)
    check(kind, sweep={"lengths": [4, 12], "initializations": ["random"]})  # of another start


@pytest.mark.parametrize("kind", ["corpus_text", "best_chunk", "most_attended"])
def test_a_folder_is_no_text(kind: str) -> None:
    Path("text.txt").unlink()
    Path("text.txt").mkdir()
    with pytest.raises(PipelineError, match=r"own\.path: 'text\.txt' is a folder; name a text"):
        check(kind)


def test_of_a_long_text_the_beginning_is_looked_at() -> None:
    looked_at: list[int] = []

    def tokens_in(text: str) -> int:
        looked_at.append(len(text))
        return len(text.split())

    assert tokens_up_to(3, "word " * 1000, tokens_in) >= 3
    assert tokens_up_to(3, "word", tokens_in) == 1
    # Where the beginning is of longer words, all of it is.
    assert tokens_up_to(3, "w" * 900 + " and more", tokens_in) == 3
    assert looked_at == [192, 4, 192, 909]
