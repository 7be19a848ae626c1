"""Words of a vocabulary are of any signs: what is found of them outlives its files and pages."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.comparison.inspected import start_words, write_pictures
from pipeline.inspection.folder import read_found, write_found
from pipeline.inspection.found import Found
from pipeline.inspection.shown import shown
from pipeline.inspection.summary import by_token, visible
from pipeline.storage.records import write_csv
from pipeline.workspace import paths

ODD = ["\r", "\r\n", "\n", "NA", "1", "\x1b[31m", "\x00", '"', "\u2028", "</script><script>x()"]
DIGITS = ["2", "0", "2", "6"]


def found_with(words: list[str]) -> Found:
    """As if a prefix had started from these words, and were nearest to them still."""
    facts = {
        **{"variant": "len4-corpus-seed0", "length": len(words), "layers": 1},
        **{"origin": "tokens of a text", "split": "test", "examples": 1},
    }
    rows = [
        {"token": at, "start": word, "rank": 1, "id": at, "word": word, "cosine": 1.0}
        for at, word in enumerate(words)
    ]
    shares = [
        {"part": "decoder", "layer": 0, "token": at, "share": 0.1} for at in range(len(words))
    ]
    return Found(facts, {"words": pd.DataFrame(rows), "attention": pd.DataFrame(shares)})


@pytest.mark.parametrize("words", [ODD, DIGITS])
def test_words_are_read_as_they_were_written(tmp_path: Path, words: list[str]) -> None:
    write_found(found_with(words), tmp_path)
    again = read_found(tmp_path)
    assert list(again.tables["words"]["word"]) == words
    assert list(again.tables["words"]["start"]) == words
    assert list(by_token(again.tables)["start"]) == [visible(word) for word in words]


@pytest.mark.parametrize("words", [ODD, DIGITS])
def test_so_are_those_of_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths.STARTS.parent.mkdir(parents=True)
    start = {"initialization": "1", "length": len(words), "seed": None, "origin": "a text"}
    noise = {"initialization": "2", "length": 4, "seed": 0, "origin": "noise", "word": None}
    write_csv(paths.STARTS, pd.DataFrame([*({**start, "word": w} for w in words), noise]))
    one, other = start_words()
    assert one.words == [visible(word) for word in words]
    assert (other.words, other.seed) == ([], 0)


def test_a_terminal_obeys_no_word() -> None:
    text = shown(found_with(ODD))
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "\\u001b[31m" in text
    assert visible(" a\tb\n") == "␣a⇥b↵"


def test_a_word_ends_no_script(tmp_path: Path) -> None:
    write_pictures(found_with(ODD), tmp_path, 50)
    page = (tmp_path / "inspection.html").read_text()
    assert "<script>x()" not in page
    assert "\\u003cscript\\u003ex()" in page
    assert "default-src 'none'" in page
