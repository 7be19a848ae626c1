"""Stage `tokenize`: raw splits to tokenized splits and their length statistics."""

from dataclasses import replace

from tqdm import tqdm

from pipeline import paths
from pipeline.config import Params
from pipeline.config.sources import SPLITS
from pipeline.errors import PipelineError
from pipeline.frozen_model import load_tokenizer
from pipeline.records import read_jsonl, write_json
from pipeline.rendering import Renderer, TokenizedExample
from pipeline.task_rendering import labels_of
from pipeline.task_type import TaskType
from pipeline.tokenized import length_statistics, save_splits


def run(params: Params) -> None:
    """Tokenize every raw split that there is."""
    renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
    labels = labels_of(renderer, read_jsonl(paths.RAW_DATA / "train.jsonl"))
    renderer = replace(renderer, labels=labels)
    splits = {
        name: _tokenize(renderer, name, params)
        for name in SPLITS
        if (paths.RAW_DATA / f"{name}.jsonl").exists()
    }
    statistics = length_statistics(splits)
    save_splits(splits, paths.TOKENIZED / "splits", TaskType(params.task.type, labels))
    write_json(paths.TOKENIZED / "statistics.json", statistics)
    for name, row in statistics.items():
        print(
            f"{name}: {row['examples']:.0f} examples, tokens of input {row['input_tokens_mean']}, "
            f"of target {row['target_tokens_mean']} on average"
        )


def _tokenize(renderer: Renderer, name: str, params: Params) -> list[TokenizedExample]:
    task = params.task
    kept = []
    rows = read_jsonl(paths.RAW_DATA / f"{name}.jsonl")
    for row in tqdm(rows, desc=f"tokenize {name}", unit="example"):
        example = renderer.tokenize(row)
        length = len(example["input_ids"])
        if length <= task.max_length:
            kept.append(example)
        elif task.too_long == "refuse":
            raise PipelineError(
                f"task.max_length: example {example['id']} of {name} has {length} tokens, more "
                f"than {task.max_length}; raise it, or set task.too_long to drop"
            )
    if not kept:
        raise PipelineError(
            f"task.max_length: no example of {name} has at most {task.max_length} tokens; raise it"
        )
    if len(kept) < len(rows):
        print(f"{name}: dropped {len(rows) - len(kept)} examples above {task.max_length} tokens")
    return kept
