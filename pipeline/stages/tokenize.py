"""Stage `tokenize`: raw splits to tokenized splits and their length statistics."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.data.example import SPLITS
from pipeline.data.labels import labels_of
from pipeline.data.rendering import Renderer
from pipeline.data.splits import save_splits
from pipeline.data.targets import check_words
from pipeline.data.task_type import TaskType
from pipeline.data.tokenizing import TokenizedSplit
from pipeline.models.tokenizer import load_tokenizer
from pipeline.progress.bar import Bar
from pipeline.storage.records import each_of_jsonl, lines_in, write_json
from pipeline.workspace import paths


def run(params: Params) -> None:
    """Tokenize every raw split that there is."""
    tokenizer = load_tokenizer(paths.MODEL)
    check_words(params.task, tokenizer)
    renderer = Renderer(params.task, tokenizer)
    labels = labels_of(renderer, each_of_jsonl(paths.RAW_DATA / "train.jsonl"))
    renderer = replace(renderer, labels=labels)
    splits: dict[str, TokenizedSplit] = {}
    for name in SPLITS:
        path = paths.RAW_DATA / f"{name}.jsonl"
        if name == "train" or path.exists():
            earlier = {other: split.inputs for other, split in splits.items()}
            splits[name] = TokenizedSplit(renderer, name, _rows(path, name), earlier)
    task = TaskType(params.task.type, labels, _end_of_target(renderer))
    save_splits(splits, paths.TOKENIZED / "splits", task)
    statistics = {name: split.lengths.statistics() | split.counts for name, split in splits.items()}
    write_json(paths.TOKENIZED / "statistics.json", statistics)
    for name, row in statistics.items():
        print(
            f"{name}: {row['examples']:.0f} examples, tokens of input {row['input_tokens_mean']}, "
            f"of target {row['target_tokens_mean']} on average"
        )


def _rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """A raw split's rows, and how far they are."""
    with Bar(lines_in(path), f"tokenize {name}", "example") as bar:
        for row in each_of_jsonl(path):
            yield row
            bar.update()


def _end_of_target(renderer: Renderer) -> int | None:
    """The token that ends a target where that is not the end of a text, which is known anyway."""
    if renderer.task.type != "causal_lm":
        return None
    end = renderer.end_of_target[-1]
    return None if end == renderer.tokenizer.eos_token_id else end
