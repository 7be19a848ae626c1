"""Answers on the terminal or in a file, for `python -m pipeline generate`."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.conversation import Turns, as_text
from pipeline.errors import PipelineError
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.inference.inputs import Input
from pipeline.inference.streaming import TerminalStreamer
from pipeline.progress.bar import following
from pipeline.storage.records import write_jsonl


def answer_one(generator: TextGenerator, given: Input, decoding: Decoding, stream: bool) -> None:
    """Print one answer; word by word where somebody is watching."""
    asked = given if isinstance(given, str) else generator.render(given)
    if stream and sys.stdout.isatty():
        generator(asked, decoding, TerminalStreamer(generator.tokenizer, generator.ends))
    else:
        print(generator(asked, decoding))


def answer_lines(
    generator: TextGenerator, given: Sequence[Input], decoding: Decoding, output: Path | None
) -> None:
    """A JSON line for each input: its `id` where it has one, `input` and `prediction`.

    Printed as each is ready, or written to `output` when all are.
    """
    if output is not None and output.is_dir():
        raise PipelineError(f"{output}: is a folder; name a file")
    # All are rendered first: a column missing in the last row is told before any work.
    asked = [item if isinstance(item, str) else generator.render(item) for item in given]
    lines = _answers(generator, given, asked, decoding)
    if output is not None:
        write_jsonl(output, lines)
        print(f"{output}: {len(asked)} answers", file=sys.stderr)
    else:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False), flush=True)


def _answers(
    generator: TextGenerator,
    given: Sequence[Input],
    asked: Sequence[str | Turns],
    decoding: Decoding,
) -> Iterator[dict[str, Any]]:
    pairs = list(zip(given, asked, strict=True))
    for item, query in following(pairs, "generate", "input"):
        known = {"id": item["id"]} if not isinstance(item, str) and "id" in item else {}
        text = query if isinstance(query, str) else as_text(query)
        yield {**known, "input": text, "prediction": generator(query, decoding)}
