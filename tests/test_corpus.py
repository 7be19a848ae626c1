"""A corpus is read from any files of text, and its chunks hold every token and character once."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.chunks import chunked, chunks_of
from pipeline.corpus.documents import Document, read_documents
from pipeline.corpus.html_text import html_text
from pipeline.errors import PipelineError
from tests.conftest import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<html><head><title>T</title><style>p {color: red}</style></head><body>
<h1>Rules &amp; terms</h1><!-- hidden --><script>alert("x")</script>
<p>One <b>bold</b>
word,<br/>then another.</p>
<ul><li>first</li><li><p>second</p></li></ul>
<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>7</td></tr></table>
<pre>def f():
    return  1</pre></body></html>"""
SHOWN = """Rules & terms

One bold word,
then another.

- first
- second

Name | Age
Ann | 7

def f():
    return  1"""


def test_a_page_gives_what_it_shows() -> None:
    assert html_text(PAGE) == SHOWN
    assert html_text("") == html_text("<script>1</script>") == ""
    assert html_text("Ł, and <i>no</i> more") == "Ł, and no more"


def test_documents_of_a_folder_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, content in {
        "b/notes.md": "# Notes\r\n\r\n*as written*\r\n",
        "a.txt": "\ufeffFirst.",
        "b/page.html": "<p>Seen</p>",
        "c.jsonl": '{"text": "one", "name": "named"}\n\n{"text": "two\u2028", "id": 7}\n',
        ".hidden/x.txt": "no",
        ".DS_Store": "no",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
    assert list(read_documents(tmp_path)) == [
        Document("a.txt", "First."),
        Document("b/notes.md", "# Notes\n\n*as written*\n"),
        Document("b/page.html", "Seen"),
        Document("named", "one"),
        Document("c.jsonl:3", "two\u2028"),
    ]
    assert list(read_documents(tmp_path / "a.txt")) == [Document("a.txt", "First.")]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.txt", b"a\xff", "is not UTF-8 text (byte 1); save it as UTF-8"),
        ("x.pdf", b"a\0b", "is no text (it holds a null character)"),
        ("x.md", b" \n", "x.md' is empty; leave it out"),
        ("x.html", b"<p> </p>", "x.html' is empty; leave it out"),
        ("x.jsonl", b'{"text": "a"}\n["b"]', "line 2 of"),
        ("x.jsonl", b'{"text": 1}', "is no JSON object whose 'text' is a document's text"),
        ("x.jsonl", b'{"text": "\\ud800"}', "line 1 of"),
        ("x.jsonl", b'{"text": " ", "name": "n"}', "the document 'n' of"),
        ("x.jsonl", b"\n", "holds no documents"),
    ],
)
def test_what_is_no_document_is_refused(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match=r"^self_study.a.path: ") as told:
        list(read_documents(tmp_path, "self_study.a.path"))
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no files"):
        list(read_documents(tmp_path))
    with pytest.raises(PipelineError, match="there is nothing at"):
        list(read_documents(tmp_path / "none"))


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="ab. \n\té€🙂", max_size=120), st.integers(1, 40))
def test_every_token_and_character_is_in_one_chunk(text: str, most: int) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    chunks = chunks_of(text, TOKENIZER, most)
    assert [token for chunk in chunks for token in chunk.token_ids] == ids
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(0 < len(chunk.token_ids) <= most for chunk in chunks)


@given(st.lists(st.integers(), max_size=60), st.integers(1, 20))
def test_pieces_are_as_few_and_as_equal_as_can_be(ids: list[int], most: int) -> None:
    pieces = chunked(ids, most)
    assert [token for piece in pieces for token in piece] == ids
    assert len(pieces) == -(-len(ids) // most)
    assert not pieces or max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_cuts_lie_between_paragraphs_then_sentences_then_words() -> None:
    def cut(text: str, most: int) -> list[str]:
        return [chunk.text for chunk in chunks_of(text, TOKENIZER, most)]

    assert cut("One two. Three\n\nfour. Five six", 20) == ["One two. Three\n\n", "four. Five six"]
    assert cut("One two six. Three four five", 20) == ["One two six. ", "Three four five"]
    assert cut("one two\nthree four", 12) == ["one two\n", "three four"]
    assert cut("abcdefghij", 6) == ["abcde", "fghij"]


def test_a_tokenizer_that_does_not_say_where_tokens_lie_is_cut_by_their_number() -> None:
    class Slow:
        is_fast = False

        def encode(self, text: str, **_: object) -> list[int]:
            return list(text.encode())

        def decode(self, ids: list[int]) -> str:
            return bytes(ids).decode()

    chunks = chunks_of("abcdefg", Slow(), 3)
    assert [chunk.text for chunk in chunks] == ["abc", "de", "fg"]
    assert json.dumps([c.token_ids for c in chunks]) == "[[97, 98, 99], [100, 101], [102, 103]]"
