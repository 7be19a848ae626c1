"""Answers on the terminal or in a file, for `python -m pipeline generate`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.data.conversation import Turns, as_text
from pipeline.errors import PipelineError
from pipeline.inference.decoding import Decoding
from pipeline.inference.generator import TextGenerator
from pipeline.inference.in_order import answers_in_order
from pipeline.inference.inputs import Input
from pipeline.inference.streaming import TerminalStreamer
from pipeline.inference.unfinished import UnfinishedLines, as_line, digest_of
from pipeline.progress.bar import Bar
from pipeline.storage.records import write_jsonl


def answer_one(generator: TextGenerator, given: Input, decoding: Decoding, stream: bool) -> None:
    """Print one answer; word by word where somebody is watching."""
    asked = given if isinstance(given, str) else generator.render(given)
    if stream and sys.stdout.isatty():
        generator(asked, decoding, TerminalStreamer(generator.tokenizer, generator.ends))
    else:
        print(generator(asked, decoding))


def answer_lines(
    generator: TextGenerator,
    given: Sequence[Input],
    decoding: Decoding,
    output: Path | None,
    max_tokens: int,
    together: int | None = None,
) -> None:
    """A JSON line for each input: its `id` where it has one, `input` and `prediction`.

    Printed as each is ready, or kept beside `output` and written there when all are: what is
    stopped goes on from there when the same is asked again. `max_tokens` and `together` as of
    `answers_in_order`.
    """
    if output is not None and output.is_dir():
        raise PipelineError(f"{output}: is a folder; name a file")
    # All are rendered first: a column missing in the last row is told before any work.
    asked = [item if isinstance(item, str) else generator.render(item) for item in given]

    def lines(first: int) -> Iterator[dict[str, Any]]:
        rest = asked[first:]
        found = answers_in_order(generator, rest, decoding, max_tokens, together)
        with Bar(len(asked), "generate", "input", initial=first) as bar:
            for item, query, answer in zip(given[first:], rest, found, strict=True):
                yield _line(item, query, answer)
                bar.update()

    if output is None:
        for line in lines(0):
            print(as_line(line), end="", flush=True)
        return
    model = generator.model
    # The tokens say what is put around an input, which `asked` does not.
    made_with = digest_of(
        model.kv_prefix(),
        *(asked, [generator.prompt_ids(each) for each in asked], asdict(decoding)),
        *(str(model.frozen_model.dtype), model.prefix_always_visible, together == 1),
    )
    unfinished = UnfinishedLines(output, made_with)
    if unfinished.kept:
        print(f"{unfinished.path}: goes on after {len(unfinished.kept)} answers", file=sys.stderr)
    with unfinished.going_on() as file:
        for line in lines(len(unfinished.kept)):
            file.write(as_line(line))
            file.flush()
            unfinished.kept.append(line)
    write_jsonl(output, unfinished.kept)
    unfinished.remove()
    print(f"{output}: {len(asked)} answers", file=sys.stderr)


def _line(item: Input, query: str | Turns, answer: str) -> dict[str, Any]:
    known = {"id": item["id"]} if not isinstance(item, str) and "id" in item else {}
    text = query if isinstance(query, str) else as_text(query)
    return {**known, "input": text, "prediction": answer}
