"""Whether a self-study has what it needs, and room in the model's context."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.config.data import CorpusData
from pipeline.config.self_study import FrozenModelGenerator, StudySettings
from pipeline.errors import PipelineError
from pipeline.preflight.context import context_of
from pipeline.preflight.model import writes_no_text
from pipeline.workspace import paths


def check_held_out(params: Params) -> None:
    """Raise PipelineError when splits of the test are asked for that no file is held out for."""
    if not isinstance(params.data, CorpusData):
        return
    name = Path(params.data.path).name
    study = params.self_study.get(name)
    if study is None or Path(params.data.path).parent != paths.SELF_STUDY:
        return
    if not (path := Path(study.held_out)).exists():
        return
    wanted = {*params.evaluate.splits, params.report.split, params.inspection.split}
    names = [file.name.partition(".")[0] for file in path.iterdir()] if path.is_dir() else []
    if "test_unseen" in wanted and "test_unseen" not in names:
        raise PipelineError(
            f"evaluate.splits: 'test_unseen' is asked for, but self_study.{name}.held_out = "
            f"'{path}' is no folder with a file of that name; add one, or leave test_unseen out"
        )


def check_room(params: Params, config: Mapping[str, Any], tokens_in: Callable[[str], int]) -> None:
    """Raise PipelineError where the frozen model cannot read a chunk and write below it.

    Tokens of a chat template are not counted here, and no server's model is known. `config` is the
    model's config.json; `tokens_in` counts a text's tokens.
    """
    studies: dict[str, StudySettings] = {f"self_study.{n}": s for n, s in params.self_study.items()}
    if params.library.documents:
        studies["library.self_study"] = params.library.self_study
    for key, study in studies.items():
        if not isinstance(study.generator, FrozenModelGenerator):
            continue
        if config.get("is_encoder_decoder") or writes_no_text(config):
            raise PipelineError(
                f"{key}.generator: frozen_model needs a decoder that writes text, "
                f"which {config.get('model_type', 'the model')} is not; use a server"
            )
        context = context_of(config)
        if context is not None and (needed := _needed(study, tokens_in)) > context:
            raise PipelineError(
                f"{key}.chunk_tokens: a chunk of {study.chunk_tokens} tokens, a "
                f"question and an answer are {needed} tokens, more than the model's context of "
                f"{context} positions; lower it, max_question_tokens or max_answer_tokens"
            )


def _needed(study: StudySettings, tokens_in: Callable[[str], int]) -> int:
    """The tokens of a chunk and the longer of the two things that are written below it."""
    prompt = max(tokens_in(prompt.prompt) for prompt in study.prompts)
    question = prompt + study.max_question_tokens
    return study.chunk_tokens + max(question, study.max_question_tokens + study.max_answer_tokens)
