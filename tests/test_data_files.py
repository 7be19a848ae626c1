"""Every kind of data file: the exact rows that come out of it, or the sentence that refuses it."""

import bz2
import datetime as dt
import gzip
import io
import json
import lzma
import uuid
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.data import FileData
from pipeline.errors import PipelineError
from pipeline.sources.data import fetch_data
from pipeline.storage.records import read_jsonl

ID = 9_223_372_036_854_775_807  # 19 digits, more than a float holds
BEYOND = 123_456_789_012_345_678_901_234_567_890
BOM = b"\xef\xbb\xbf"
ROWS: list[dict[str, Any]] = [{"q": "é", "n": 1999}, {"q": "b", "n": None}]
LINES = '{"q": "é", "n": 1999}\n{"q": "b", "n": null}\n'.encode()
TABLE = "q,n\né,007\nb,\n".encode()
TEXTS = [{"q": "é", "n": "007"}, {"q": "b", "n": ""}]


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def by_arrow(name: str, content: bytes) -> bytes:
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, name) as stream:
        stream.write(content)
    return bytes(file.getvalue())


def parquet(*columns: tuple[str, Any, Any]) -> bytes:
    """A Parquet file of columns: name, values and type."""
    file = io.BytesIO()
    arrays = [pa.array(values, kind) for _, values, kind in columns]
    pq.write_table(pa.table(arrays, [name for name, _, _ in columns]), file)
    return file.getvalue()


def by_pandas(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


def one(name: str, values: list[Any], kind: Any) -> bytes:
    return parquet((name, values, kind))


UTC = pa.timestamp("us", tz="UTC")
NOON = dt.datetime(2024, 2, 29, 12, 30)

READ: dict[str, tuple[str, bytes, list[dict[str, Any]]]] = {
    # JSON lines.
    "whole numbers beside a null": ("a.jsonl", LINES, ROWS),
    "a missing key": ("a.jsonl", b'{"q": 1}\n{"n": 2}\n', [{"q": 1, "n": None}, {"q": None, "n": 2}]),
    "19 digits, and more": (
        "a.jsonl",
        f'{{"a": {ID}, "b": {BEYOND}}}\n{{"a": null, "b": 1}}\n'.encode(),
        [{"a": ID, "b": BEYOND}, {"a": None, "b": 1}],
    ),
    "structs keep their own keys": (
        "a.jsonl",
        f'{{"s": {{"x": {ID}, "l": [1, null]}}}}\n{{"s": {{"y": [[]]}}}}\n{{"s": null}}\n'.encode(),
        [{"s": {"x": ID, "l": [1, None]}}, {"s": {"y": [[]]}}, {"s": None}],
    ),
    "one column of many types": (
        "a.jsonl",
        b'{"v": 1}\n{"v": "1"}\n{"v": 1.0}\n{"v": true}\n{"v": [1, "a"]}\n',
        [{"v": 1}, {"v": "1"}, {"v": 1.0}, {"v": True}, {"v": [1, "a"]}],
    ),
    "texts like dates and numbers": (
        "a.jsonl",
        b'{"d": "2024-02-29", "t": "2024-02-29T12:30:00Z", "z": "01234", "n": "NA", "e": ""}\n',
        [{"d": "2024-02-29", "t": "2024-02-29T12:30:00Z", "z": "01234", "n": "NA", "e": ""}],
    ),
    "not a number and infinity": (
        "a.jsonl",
        b'{"x": NaN, "y": -Infinity, "z": [Infinity, NaN]}\n',
        [{"x": None, "y": "-inf", "z": ["inf", None]}],
    ),
    "floats": ("a.jsonl", b'{"x": 0.1, "y": 1e3, "z": -0.0}\n', [{"x": 0.1, "y": 1000.0, "z": -0.0}]),
    "a byte-order mark": ("a.jsonl", BOM + LINES, ROWS),
    "CR LF and blank lines": ("a.jsonl", b"\r\n" + LINES.replace(b"\n", b"\r\n\r\n"), ROWS),
    "no line end at the end": ("a.jsonl", LINES.rstrip(), ROWS),
    "ndjson in capitals": ("A.NDJSON", LINES, ROWS),
    "separators of Unicode in a text": (
        "a.jsonl",
        '{"q": "a\u2028b\u0085c"}\n'.encode(),
        [{"q": "a\u2028b\u0085c"}],
    ),
    "escapes": (
        "a.jsonl",
        b'{"q": "\\ud83d\\ude00 \\u0000 \\n"}\n',
        [{"q": "\U0001f600 \x00 \n"}],
    ),
    "objects on several lines": ("a.jsonl", b'{\n "q": 1\n}\n{\n "q": 2\n}\n', [{"q": 1}, {"q": 2}]),
    "one row of lists": ("a.jsonl", b'{"t": ["a"], "g": ["x"]}\n', [{"t": ["a"], "g": ["x"]}]),
    # JSON.
    "an array": ("a.json", b'[{"q": "a", "n": 1},\n {"q": "b"}]\n', [{"q": "a", "n": 1}, {"q": "b", "n": None}]),
    "an array with a byte-order mark": ("a.json", BOM + b' [\r\n{"q": 1}\r\n] ', [{"q": 1}]),
    "an array of one table": ("a.json", b'[{"data": [{"q": 1}]}]', [{"data": [{"q": 1}]}]),
    "lines in a .json": ("a.json", LINES, ROWS),
    "one flat object": ("a.json", b'{\n  "q": "a",\n  "r": ["b"]\n}\n', [{"q": "a", "r": ["b"]}]),
    "an array in a .jsonl": ("a.jsonl", b'[{"q": 1}, {"q": 2}]', [{"q": 1}, {"q": 2}]),
    # CSV and TSV.
    "cells are texts": (
        "a.csv",
        f"a,b,c,d,e\n007,NA,True,{ID},1e3\nnull,,nan,1999.0, x \n".encode(),
        [
            {"a": "007", "b": "NA", "c": "True", "d": str(ID), "e": "1e3"},
            {"a": "null", "b": "", "c": "nan", "d": "1999.0", "e": " x "},
        ],
    ),
    "CSV with a byte-order mark": ("a.csv", BOM + TABLE, TEXTS),
    "CSV with a quoted name after the mark": ("a.csv", BOM + b'"q, r"\n1\n', [{"q, r": "1"}]),
    "CSV with CR LF": ("a.csv", TABLE.replace(b"\n", b"\r\n"), TEXTS),
    "quoted line ends, delimiters and quotes": (
        "a.csv",
        b'q,n\n"a\nb, ""c""","x\r\ny"\n',
        [{"q": 'a\nb, "c"', "n": "x\r\ny"}],
    ),
    "delimiters at the end of the rows": ("a.csv", b"q,n\n1,2,\n3,4,,\n", [{"q": "1", "n": "2"}, {"q": "3", "n": "4"}]),
    "delimiters at the end of every line": ("a.csv", b"q,n,\n1,2,\n3,4,\n", [{"q": "1", "n": "2"}, {"q": "3", "n": "4"}]),
    "delimiters at the end of the first line": ("a.csv", b"q,n,,\n1,2\n3,4,\n", [{"q": "1", "n": "2"}, {"q": "3", "n": "4"}]),
    "the index that pandas writes": ("a.csv", b",q\n0,a\n1,b\n", [{"": "0", "q": "a"}, {"": "1", "q": "b"}]),
    "blank lines": ("a.csv", b"\nq,n\n\n1,2\n\n", [{"q": "1", "n": "2"}]),
    "empty cells": ("a.csv", b"q,n\n,\n1,\n", [{"q": "", "n": ""}, {"q": "1", "n": ""}]),
    "a name with blanks": ("a.csv", b"Review Text,self\ngood,me\n", [{"Review Text": "good", "self": "me"}]),
    "a long cell": ("a.csv", b"q\n" + b"x" * 200_000 + b"\n", [{"q": "x" * 200_000}]),
    "TSV": ("a.tsv", b'q\tn\n"a\tb"\t1, 2\n', [{"q": "a\tb", "n": "1, 2"}]),
    # Compressed.
    "gzip": ("a.jsonl.gz", gzip.compress(LINES), ROWS),
    "gzip of two parts": ("a.csv.gz", gzip.compress(TABLE[:9]) + gzip.compress(TABLE[9:]), TEXTS),
    "gzip without a word": ("a.json", gzip.compress(b'[{"q": 1}]'), [{"q": 1}]),
    "no gzip for all its name": ("a.csv.gz", TABLE, TEXTS),
    "bzip2": ("a.csv.bz2", bz2.compress(TABLE), TEXTS),
    "xz": ("a.tsv.xz", lzma.compress(TABLE.replace(b",", b"\t")), TEXTS),
    "zstandard": ("a.jsonl.zst", by_arrow("zstd", LINES), ROWS),
    "lz4": ("a.json.lz4", by_arrow("lz4", LINES), ROWS),
    "zip of one file": ("a.csv.zip", zipped(table=TABLE), TEXTS),
    # Parquet.
    "Parquet: whole numbers": (
        "a.parquet",
        parquet(("a", [ID, None], pa.int64()), ("b", [2**64 - 1, 0], pa.uint64()), ("c", [1, None], pa.int8())),
        [{"a": ID, "b": 2**64 - 1, "c": 1}, {"a": None, "b": 0, "c": None}],
    ),
    "Parquet: floats": (
        "a.parquet",
        parquet(
            ("x", [0.1, None], pa.float32()),
            ("y", [0.1, float("nan")], pa.float64()),
            ("z", [float("inf"), 1999.0], pa.float64()),
            ("h", [0.1, 2.0], pa.float16()),
        ),
        [{"x": 0.1, "y": 0.1, "z": "inf", "h": 0.1}, {"x": None, "y": None, "z": 1999.0, "h": 2.0}],
    ),
    "Parquet: lists and structs": (
        "a.parquet",
        parquet(
            ("l", [[[ID], None], []], pa.list_(pa.list_(pa.int64()))),
            ("s", [{"x": ID, "y": [0.1]}, None], pa.struct([("x", pa.int64()), ("y", pa.list_(pa.float32()))])),
            ("m", [[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        ),
        [
            {"l": [[ID], None], "s": {"x": ID, "y": [0.1]}, "m": {"k": 1}},
            {"l": [], "s": None, "m": None},
        ],
    ),
    "Parquet: dates and times": (
        "a.parquet",
        parquet(
            ("d", [NOON.date(), None], pa.date32()),
            ("t", [NOON.time(), None], pa.time64("us")),
            ("s", [NOON, None], pa.timestamp("s")),
            ("u", [NOON, None], UTC),
            ("n", [1_709_209_800_000_000_001, None], pa.timestamp("ns")),
            ("w", [dt.timedelta(days=1, hours=2), None], pa.duration("us")),
        ),
        [
            {
                "d": "2024-02-29",
                "t": "12:30:00",
                "s": "2024-02-29 12:30:00",
                "u": "2024-02-29 12:30:00+00:00",
                "n": "2024-02-29 12:30:00.000000001",
                "w": "1 day, 2:00:00",
            },
            dict.fromkeys("dtsunw"),
        ],
    ),
    "Parquet: decimals": (
        "a.parquet",
        one("x", [Decimal("12.50"), Decimal("0"), Decimal("12345678901234567890.12"), None], pa.decimal128(30, 2)),
        [{"x": "12.50"}, {"x": "0.00"}, {"x": "12345678901234567890.12"}, {"x": None}],
    ),
    "Parquet: bytes that are text": ("a.parquet", one("b", ["é".encode(), b"", None], pa.binary()), [{"b": "é"}, {"b": ""}, {"b": None}]),
    "Parquet: names with dots": (
        "a.parquet",
        parquet(("a", [{"b": 1}], None), ("a.b", [2], None), ("c", [3], None)),
        [{"a": {"b": 1}, "a.b": 2, "c": 3}],
    ),
    "Parquet: categories": (
        "a.parquet",
        by_pandas(pd.DataFrame({"c": pd.Categorical(["x", None, "x"])})),
        [{"c": "x"}, {"c": None}, {"c": "x"}],
    ),
    "Parquet: truth values": ("a.parquet", one("x", [True, None, False], pa.bool_()), [{"x": True}, {"x": None}, {"x": False}]),
    "Parquet: nulls alone": ("a.parquet", parquet(("x", [None], pa.null()), ("y", [1], pa.int64())), [{"x": None, "y": 1}]),
    "Parquet: an id of 128 bits": ("a.parquet", one("u", [uuid.UUID(int=1).bytes], pa.uuid()), [{"u": str(uuid.UUID(int=1))}]),
    "Parquet: pandas' index without a name": (
        "a.parquet",
        by_pandas(pd.DataFrame({"q": ["a", "b"]}, index=[5, 3])),
        [{"q": "a"}, {"q": "b"}],
    ),
    "Parquet: pandas' index with a name": (
        "a.parquet",
        by_pandas(pd.DataFrame({"q": ["a"]}, index=pd.Index(["k"], name="key"))),
        [{"q": "a", "key": "k"}],
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[str, bytes, str]] = {
    "nothing": ("a.jsonl", b"", "holds no rows"),
    "white space": ("a.json", b" \r\n\n", "holds no rows"),
    "an empty array": ("a.json", b"[ ]", "holds no rows"),
    "names alone": ("a.csv", b"q,n\n", "holds no rows"),
    "an empty Parquet": ("a.parquet", one("x", [], pa.int64()), "holds no rows"),
    "empty objects": ("a.jsonl", b"{}\n{}\n", "holds empty rows alone"),
    "a null a line": ("a.jsonl", b'{"q": 1}\nnull\n', "row 2 is no object but null"),
    "a list a line": ("a.jsonl", b'{"q": 1}\n[1]\n', "row 2 is no object but [1]"),
    "an array of texts": ("a.json", b'["a"]', 'row 1 is no object but "a"'),
    "an object around the rows": (
        "a.json",
        b'{"version": "1.1", "data": [{"q": 1}]}',
        "it holds one object (the rows may be its 'data'); save the rows as an array",
    ),
    "columns as pandas writes them": (
        "a.json",
        b'{"q": {"0": "a"}, "n": {"0": 1}}',
        "it holds one object (it may hold columns)",
    ),
    "columns of lists": ("a.json", b'{"q": ["a", "b"], "n": [1, 2]}', "it may hold columns"),
    "a broken line": ("a.jsonl", b'{"q": 1}\n\n{"q": \n', "line 3, column 6: Expecting value"),
    "a broken first line": ("a.jsonl", b'{"q": 1,}\n{"q": 2}\n', "line 1, column"),
    "a broken array": ("a.json", b'[{"q": 1},\n {"q": 2}', "line 2: neither ',' nor ']'"),
    "more after an array": ("a.json", b'[{"q": 1}]\n[{"q": 2}]', "line 2: more follows the array"),
    "a key twice": ("a.jsonl", b'{"q": 1}\n{"q": 1, "q": 2}\n', "line 2: an object has the key 'q' twice"),
    "half a character": ("a.jsonl", b'{"q": 1}\n{"q": "\\ud83d"}\n', "line 2: a text holds half"),
    "a number without bound": ("a.jsonl", b'{"q": 1e999}\n', "line 1: the number 1e999 is above"),
    "too deep": ("a.jsonl", b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "Latin-1": ("a.csv", "q\na\né\n".encode("latin-1"), "line 3 is not UTF-8 text (byte 0xE9)"),
    "UTF-16": ("a.jsonl", LINES.decode().encode("utf-16"), "line 1 is not UTF-8 text (byte 0xFF)"),
    "too few cells": ("a.csv", b"q,n\n1,2\n3\n", "line 3 has 1 cells and the first line 2 names"),
    "too many cells": ("a.csv", b"q,n\n1,2,3\n", "line 2 has 3 cells and the first line 2 names"),
    "a column twice": ("a.csv", b"q,n,q\n1,2,3\n", "it has two columns 'q'; rename one"),
    "cells without names": ("a.csv", b"q,,\n1,2,3\n", "line 2 has two cells without a column's"),
    "CR alone": ("a.csv", b"q,n\r1,2\r", "line 1: a carriage return alone; save the file"),
    "a quote without end": ("a.csv", b'q,n\n"1,2\n3,4\n', "line 3: unexpected end of data"),
    "a quote inside": ("a.tsv", b'q\tn\n"a" b\t2\n', "line 2: '\t' expected after '\"'"),
    "semicolons": ("a.csv", b"q;n\n1;2\n", "its one column is 'q;n', which ';' seems to divide"),
    "commas in a TSV": ("a.tsv", b"q,n\n1,2\n", "its one column is 'q,n', which ',' seems"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(LINES)[:-9], "is no readable .jsonl file: "),
    "zstandard cut off": ("a.jsonl.zst", by_arrow("zstd", LINES * 99)[:-9], "is no readable .jsonl"),
    "two files in a zip": ("a.csv.zip", zipped(a=TABLE, b=TABLE), "it is a zip archive of 2 files"),
    "a workbook": ("a.xlsx", zipped(a=b"", b=b""), "is none of .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
    "a workbook by another name": ("a.csv", zipped(a=b"", b=b""), "it is a zip archive of 2 files"),
    "no suffix": ("a", LINES, "is none of"),
    "an archive": ("a.tar.gz", b"", "is none of"),
    "Parquet in gzip": ("a.parquet.gz", b"", "is none of"),
    "Parquet by another name": ("a.csv", one("x", [1], pa.int64()), "line "),
    "no Parquet": ("a.parquet", TABLE, "is no readable .parquet file"),
    "Parquet cut off": ("a.parquet", one("x", [1], pa.int64())[:-9], "is no readable .parquet"),
    "Parquet: a column twice": ("a.parquet", parquet(("x", [1], None), ("x", [2], None)), "two columns 'x'"),
    "Parquet: bytes": ("a.parquet", one("image", [b"\xff\x00"], pa.binary()), "column 'image': its bytes are not UTF-8 text; write them as text"),
}  # fmt: skip


def fetched(folder: Path, name: str) -> list[dict[str, Any]]:
    path = str(folder / name)
    params = FileData(
        source="files",
        path=str(folder),
        files={"train": path, "validation": path, "test": path},  # type: ignore[arg-type]
    )
    fetch_data(params, folder / "raw")
    return read_jsonl(folder / "raw" / "train.jsonl")


def exact(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as text, which tells 1 from 1.0 and from true, and the order of keys."""
    return [json.dumps(row) for row in rows]


@pytest.mark.parametrize("case", READ)
def test_rows(tmp_path: Path, case: str) -> None:
    name, content, expected = READ[case]
    (tmp_path / name).write_bytes(content)
    rows = fetched(tmp_path, name)
    assert [row.pop("id") for row in rows] == [f"train-{i}" for i in range(len(expected))]
    assert exact(rows) == exact(expected)
    # What is written is JSON as its standard has it.
    text = (tmp_path / "raw" / "train.jsonl").read_text(encoding="utf-8")
    json.loads(text.split("\n")[0], parse_constant=fail)


def fail(constant: str) -> None:
    raise AssertionError(constant)


@pytest.mark.parametrize("case", REFUSED)
def test_a_sentence(tmp_path: Path, case: str) -> None:
    name, content, expected = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match=r"^data\.files\.train: '.*'") as caught:
        fetched(tmp_path, name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "raw").exists()


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"data\.files\.train: there is no file '.*a\.csv'"):
        fetched(tmp_path, "a.csv")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(PipelineError, match=r"'.*a\.csv' is a folder; name a file of it"):
        fetched(tmp_path, "a.csv")
