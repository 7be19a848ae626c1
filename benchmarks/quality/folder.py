"""A folder with what trials read, made once: the model, the tokenized splits, the starts."""

import os
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from benchmarks.quality.trials import Trial
from pipeline.config import Params
from pipeline.data.example import SPLITS
from pipeline.data.rendering import Renderer
from pipeline.data.splits import save_splits
from pipeline.data.task_type import TaskType
from pipeline.data.tokenizing import TokenizedSplit
from pipeline.errors import PipelineError
from pipeline.models.definition import write_definition
from pipeline.models.first_tokens import KEPT, TOKENS
from pipeline.models.for_initialization import ForInitialization
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import PrefixError
from pipeline.sources.data import fetch_data
from pipeline.sources.model import fetch_model
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import each_of_jsonl, write_json
from pipeline.workspace import paths

# What params name from the repository's root on.
_READ = ("inputs", "corpora", "requirements.lock")


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """The working folder is `folder` meanwhile, which has the repository's own files as links."""
    home = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    for name in _READ:
        if not (folder / name).exists():
            (folder / name).symlink_to(os.path.relpath(home / name, folder))
    with chdir(folder):
        yield


def write_model(params: Params) -> None:
    """Fetch the model, unless there is one already.

    Raises PipelineError for one that cannot be had.
    """
    if not (paths.MODEL / "config.json").exists():
        fetch_model(params.model, paths.MODEL)


def write_data(params: Params) -> None:
    """Fetch and tokenize the splits. Raises PipelineError for data that cannot be had."""
    fetch_data(params.data, paths.RAW_DATA)
    tokenizer = load_tokenizer(paths.MODEL)
    renderer = Renderer(params.task, tokenizer)
    splits = {
        name: TokenizedSplit(renderer, name, each_of_jsonl(paths.RAW_DATA / f"{name}.jsonl"))
        for name in SPLITS
        if (paths.RAW_DATA / f"{name}.jsonl").exists()
    }
    end = renderer.end_of_target[-1]
    task = TaskType(params.task.type, (), None if end == tokenizer.eos_token_id else end)
    save_splits(splits, paths.TOKENIZED / "splits", task)


def write_starts(left: Sequence[Trial], trials: Sequence[Trial]) -> None:
    """Compute what prefixes of the trials that are left start from.

    As long as the longest of all trials asks for: some starts are other ones at another length, and
    a run that goes on is to have those of the run before. Trials fail alone whose start cannot be
    made.
    """
    params, needed = trials[0].params, _longest(left)
    for start, length in _longest(trials).items():
        if start not in needed:
            continue
        try:
            _write_start(params, start, length)
        except (PipelineError, PrefixError) as error:
            print(f"{start}: {error}")


def _longest(trials: Sequence[Trial]) -> dict[str, int]:
    """The longest prefix that starts from each initialisation."""
    found: dict[str, int] = {}
    for trial in trials:
        start = trial.begins_from
        if start is not None:
            found[start.initialization] = max(start.length, found.get(start.initialization, 0))
    return found


def _write_start(params: Params, name: str, length: int) -> None:
    """What variants of an initialisation start from, of which shorter ones are the beginning."""
    cache = params.kv_prefix.model_copy(update={"max_length": length})
    context = ForInitialization(params.model_copy(update={"kv_prefix": cache}), name)
    definition = params.initializations[name]
    with atomic_folder(paths.KV_PREFIX / name) as folder:
        write_definition(folder, definition)
        cached = definition.cached(context)
        if cached is not None and cached.tokens is not None:
            tokens = {"tokens": list(cached.tokens), "begins_text": cached.begins_text}
            write_json(folder / TOKENS, tokens)
        if cached is not None and cached.kv is not None:
            cached.kv.save(folder / KEPT)
