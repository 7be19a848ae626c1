"""What the model asks itself about a corpus: the `self_study` section."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.corpus.seed_prompts import SEED_PROMPTS
from pipeline.schema.compute import Compute
from pipeline.schema.section import Count, GivenPath, Name, Section
from pipeline.workspace import paths


class FrozenModelGenerator(Compute):
    """The frozen model itself, which reads each chunk once."""

    type: Literal["frozen_model"]


class ServerGenerator(Section):
    """A server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp's, or a paid one.

    `url` is what `/chat/completions` is added to; `api_key_env` names the environment variable
    that holds a key, if one is needed.
    """

    type: Literal["server"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    model: Annotated[str, Field(min_length=1)]
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    parallel_requests: Count = 8
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    retries: Annotated[int, Field(ge=0)] = 4


Generator = Annotated[FrozenModelGenerator | ServerGenerator, Field(discriminator="type")]


RECITE = "recite"
"""The kind of the questions whose answer is the text itself."""


class SeedPrompt(Section):
    """What the model is asked for, under a chunk: a question about it."""

    kind: Name
    prompt: Annotated[str, Field(pattern=r"\S")]


def _named(prompts: Any) -> Any:
    """The prompts of the kinds that are named, in their place."""
    if not isinstance(prompts, list):
        return prompts
    for item in prompts:
        if isinstance(item, str) and item not in SEED_PROMPTS:
            raise ValueError(
                f"'{item}' is no kind of prompt; use one of {', '.join(SEED_PROMPTS)}, or your own "
                "as {kind: <name>, prompt: <text>}"
            )
    return [
        {"kind": item, "prompt": SEED_PROMPTS[item]} if isinstance(item, str) else item
        for item in prompts
    ]


def _of_distinct_kinds(prompts: list[SeedPrompt]) -> list[SeedPrompt]:
    kinds = [prompt.kind for prompt in prompts]
    if RECITE in kinds:
        raise ValueError(
            f"'{RECITE}' is the kind of the questions by recitals_per_chunk; choose another name"
        )
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"lists the kind '{kind}' twice; name each once")
    return prompts


def _of_every_kind() -> list[SeedPrompt]:
    return [SeedPrompt(kind=kind, prompt=prompt) for kind, prompt in SEED_PROMPTS.items()]


SeedPrompts = Annotated[
    list[SeedPrompt],
    Field(min_length=1),
    AfterValidator(_of_distinct_kinds),
    BeforeValidator(_named),
]


class StudySettings(Section):
    """How questions and answers about a text are asked for, whatever the text is.

    `recitals_per_chunk` more have a passage of the chunk as their answer; no model writes them.
    Questions are drawn at `temperature` from `top_p` of the mass, answers at `answer_temperature`.
    `summary_tokens` is of a summary of the whole corpus, of which each chunk has the same share;
    null for none.
    """

    generator: Generator = FrozenModelGenerator(type="frozen_model")
    chunk_tokens: Annotated[int, Field(ge=16)] = 512
    questions_per_chunk: Count = 10
    recitals_per_chunk: Annotated[int, Field(ge=0)] = 0
    prompts: SeedPrompts = Field(default_factory=_of_every_kind)
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    answer_temperature: Annotated[float, Field(ge=0)] = 0.0
    max_question_tokens: Count = 64
    max_answer_tokens: Count = 128
    unfinished: Literal["drop", "keep"] = "drop"
    summary_tokens: Count | None = None
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0


class SelfStudy(StudySettings):
    """Questions and answers about one corpus, written by a model that has a chunk in its context.

    `path` is the corpus and `held_out` the person's own questions for the test: DVC watches both.
    """

    path: GivenPath
    held_out: GivenPath


SelfStudies = dict[Name, SelfStudy]

SUMMARY = "summary.txt"
"""The summary's file in the folder of a self-study."""


def asking_the_model(studies: SelfStudies) -> dict[str, Compute]:
    """The generators that are the frozen model, by their keys' path."""
    return {
        f"self_study.{name}.generator": study.generator
        for name, study in studies.items()
        if isinstance(study.generator, FrozenModelGenerator)
    }


def refuse_unknown_study(path: str, studies: SelfStudies) -> None:
    """Raise ValueError for data of a self-study that is not in params.yaml."""
    folder, name = os.path.split(os.path.normpath(path))
    if Path(folder) == paths.SELF_STUDY and name not in studies:
        known = ", ".join(studies) or "none"
        raise ValueError(
            f"data.path: '{path}' is what self_study.{name} would write, which is not defined; "
            f"define it, or use one of: {known}"
        )


def refuse_missing_summaries(read: Mapping[str, str], studies: SelfStudies) -> None:
    """Raise ValueError for a key whose path is a summary that no self-study is to write."""
    for key, path in read.items():
        folder, file = os.path.split(os.path.normpath(path))
        if file != SUMMARY or Path(folder).parent != paths.SELF_STUDY:
            continue
        name = Path(folder).name
        if name not in studies or studies[name].summary_tokens is None:
            raise ValueError(
                f"{key}: '{path}' is the summary of self_study.{name}, which writes none; set "
                f"self_study.{name}.summary_tokens to its length, such as 256"
            )
