"""Stage `tokenize`: raw splits to tokenized splits and their length statistics."""

from dataclasses import replace

from pipeline.config import Params
from pipeline.data.example import SPLITS
from pipeline.data.labels import labels_of
from pipeline.data.rendering import Renderer
from pipeline.data.splits import length_statistics, save_splits
from pipeline.data.targets import check_words
from pipeline.data.task_type import TaskType
from pipeline.data.tokenizing import across_splits, tokenized_split
from pipeline.models.tokenizer import load_tokenizer
from pipeline.storage.records import read_jsonl, write_json
from pipeline.workspace import paths


def run(params: Params) -> None:
    """Tokenize every raw split that there is."""
    tokenizer = load_tokenizer(paths.MODEL)
    check_words(params.task, tokenizer)
    renderer = Renderer(params.task, tokenizer)
    labels = labels_of(renderer, read_jsonl(paths.RAW_DATA / "train.jsonl"))
    renderer = replace(renderer, labels=labels)
    splits, counts = {}, {}
    for name in SPLITS:
        path = paths.RAW_DATA / f"{name}.jsonl"
        if path.exists():
            splits[name], counts[name] = tokenized_split(renderer, name, read_jsonl(path))
    statistics = length_statistics(splits)
    repeated = across_splits(splits)
    for name, row in statistics.items():
        row |= counts[name] | {"inputs_of_earlier_splits": repeated[name]}
    task = TaskType(params.task.type, labels, _end_of_target(renderer))
    save_splits(splits, paths.TOKENIZED / "splits", task)
    write_json(paths.TOKENIZED / "statistics.json", statistics)
    for name, row in statistics.items():
        print(
            f"{name}: {row['examples']:.0f} examples, tokens of input {row['input_tokens_mean']}, "
            f"of target {row['target_tokens_mean']} on average"
        )


def _end_of_target(renderer: Renderer) -> int | None:
    """The token that ends a target where that is not the end of a text, which is known anyway."""
    if renderer.task.type != "causal_lm":
        return None
    end = renderer.end_of_target[-1]
    return None if end == renderer.tokenizer.eos_token_id else end
