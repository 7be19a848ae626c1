"""What of params.yaml can be checked against files, before any work starts."""

import contextlib
import json
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.config.data import FileData
from pipeline.config.model import LocalModel
from pipeline.errors import PipelineError
from pipeline.preflight.beside_variants import (
    check_starts,
    check_trained_examples,
    check_trained_lengths,
)
from pipeline.preflight.context import check_examples, check_lengths
from pipeline.preflight.documents import check_documents
from pipeline.preflight.kinds import check_kinds
from pipeline.preflight.layers import check_layers
from pipeline.preflight.model import check_model_fits_task
from pipeline.preflight.modules import check_modules
from pipeline.preflight.self_study import check_held_out, check_room
from pipeline.preflight.texts import check_texts
from pipeline.standing.last_runs import LastRuns
from pipeline.storage.records import read_json
from pipeline.workspace import paths

_VOCABULARY = paths.MODEL / "tokenizer.json"


def check_files(params: Params) -> list[str]:
    """Check that what params names is there and fits, as far as it can be known already.

    Returns a sentence for each check that has to wait for a stage. Raises PipelineError with the
    key's path for the first thing that is wrong. Costs milliseconds: no model is loaded.
    """
    last = LastRuns.read()
    _sources_exist(params, last)
    check_held_out(params)
    params.prefix.distractors.files()
    waiting = []
    tokens_in = _token_counter()
    _model_fits_task(params, last)
    if last.is_current("fetch_model"):
        if (config := _model_config()) is not None:
            check_lengths(params, config)
            check_trained_lengths(params, config)
            check_room(params, config, tokens_in)
        if _VOCABULARY.exists():
            check_texts(params, tokens_in)
            check_documents(params, tokens_in, last)
    else:
        waiting.append("lengths and corpora are checked against the model after fetch_model")
    if last.is_current("fetch_data"):
        _templates_fit_columns(params)
    else:
        waiting.append("templates are checked against the data's columns after fetch_data")
    if last.is_current("tokenize"):
        check_tokenized(params)
    return waiting


def _sources_exist(params: Params, last: LastRuns) -> None:
    """What is named is there, as far as a stage that still has to run reads it.

    A clone whose outputs came from DVC's cache does without the files that they were made from.
    """
    named: list[tuple[str, str, str]] = []
    named.append(("fetch_model", "model.path", params.model.path))
    named.append(("fetch_data", "data.path", params.data.path))
    if isinstance(params.data, FileData):
        files = params.data.files.model_dump()
        named += [("fetch_data", f"data.files.{split}", file) for split, file in files.items()]
    for name, study in params.self_study.items():
        named.append((f"self_study@{name}", f"self_study.{name}.path", study.path))
        named.append((f"held_out@{name}", f"self_study.{name}.held_out", study.held_out))
    for name, path in params.library.documents.items():
        named.append((f"library_study@{name}", f"library.documents.{name}", path))
        named.append((f"library_tokenize@{name}", "library.held_out", params.library.held_out))
    for name, definition in params.initializations.items():
        if definition.path_is_users_own:
            named.append((f"kv_prefix@{name}", f"initializations.{name}.path", definition.path))
    for name, baseline in params.baselines.items():
        if baseline.path_is_users_own:
            named.append((f"baselines@{name}", f"baselines.{name}.path", baseline.path))
    for name, teacher in params.teachers.items():
        named.append((f"teach@{name}", f"teachers.{name}.path", teacher.path))
    for stage, key, path in named:
        if path and not Path(path).exists() and not _is_output(path) and not last.is_current(stage):
            raise PipelineError(f"{key}: there is nothing at '{path}'; name an existing path")


def _is_output(path: str) -> bool:
    """Whether a stage writes this path, so that it may still be missing."""
    return Path(path).parts[:1] == paths.DATA.parts


def _model_fits_task(params: Params, last: LastRuns) -> None:
    """By the configuration in data/model, or of a local source that is still to be fetched."""
    if last.is_current("fetch_model"):
        config = _model_config()
        if config is not None:
            check_model_fits_task(params, config)
            _model_has_what_is_named(params, paths.MODEL)
    elif isinstance(params.model, LocalModel):
        # What cannot be read is the matter of fetch_model, which says what is wrong with it.
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((Path(params.model.path) / "config.json").read_text("utf-8"))
            if isinstance(config, dict):
                check_model_fits_task(params, config)
                check_lengths(params, config)
                check_trained_lengths(params, config)
                _model_has_what_is_named(params, Path(params.model.path))


def _model_has_what_is_named(params: Params, folder: Path) -> None:
    check_kinds(params, folder)
    check_layers(params, folder)
    check_modules(params, folder)


def check_tokenized(params: Params) -> None:
    """Check that there are enough training examples, and a position in the model for each token.

    Of what `tokenize` wrote. Raises PipelineError with the key's path for the first thing that is
    too few or too long.
    """
    statistics = read_json(paths.TOKENIZED / "statistics.json")
    examples = int(statistics["train"]["examples"])
    largest = max(params.sweep.train_sizes, default=0)
    if largest > examples:
        raise PipelineError(
            f"sweep.train_sizes: {largest} is above the {examples} examples of the training split; "
            "lower it, or raise data.max_examples.train"
        )
    config = _model_config()
    if config is not None:
        tokens_in = _token_counter()
        check_examples(params, config, statistics, tokens_in)
        check_trained_examples(params, config, statistics)
        check_starts(params, config, statistics, tokens_in)


def _token_counter() -> Callable[[str], int]:
    """Counts a text's tokens; the tokenizer is read when it is first needed."""

    @cache
    def tokenizer() -> Any:
        if not _VOCABULARY.exists():
            # One in Python, which transformers alone can read.
            from pipeline.models.tokenizer import load_tokenizer

            return load_tokenizer(paths.MODEL)
        state = _VOCABULARY.stat()
        return _fast_tokenizer(state.st_ino, state.st_mtime_ns, state.st_size)

    return lambda text: len(tokenizer().encode(text))


@lru_cache(maxsize=1)
def _fast_tokenizer(*state: int) -> Any:
    """The tokenizer of a file in this state: a worker checks params before each of its stages."""
    from tokenizers import Tokenizer

    return _model_file(_VOCABULARY, Tokenizer.from_str)


def _model_config() -> Any:
    """The fetched model's configuration; None where there is no such file yet."""
    path = paths.MODEL / "config.json"
    return _model_file(path, json.loads) if path.exists() else None


def _model_file(path: Path, read: Callable[[str], Any]) -> Any:
    try:
        return read(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises the plain class
        raise PipelineError(f"{path}: is damaged; run `dvc repro --force fetch_model`") from error


def _templates_fit_columns(params: Params) -> None:
    path = paths.RAW_DATA / "train.jsonl"
    if not path.exists():
        return
    from pipeline.data.conversation import answers_in, turns_of
    from pipeline.data.references import references_of
    from pipeline.data.templates import EmptyRowError, render

    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except ValueError as error:
        raise PipelineError(f"{path}: is damaged; run `dvc repro --force fetch_data`") from error
    # A null in the first row says nothing of the template; `tokenize` goes by task.empty.
    column = params.task.references_column
    with contextlib.suppress(EmptyRowError):
        if params.task.messages_column is not None:
            turns = turns_of(row, params.task.messages_column)
            target = answers_in(turns, "last", row)[-1][1]
        else:
            render(params.task.input_template, row, "task.input_template")
            target = render(params.task.target_template, row, "task.target_template")
        if column is not None:
            references_of(column, row, target)
    for name, definition in params.initializations.items():
        for key, template in definition.templates().items():
            with contextlib.suppress(EmptyRowError):
                render(template, row, f"initializations.{name}.{key}")
