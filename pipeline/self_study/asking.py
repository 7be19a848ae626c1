"""One chunk: its questions, and the answers to those that are worth one."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.config.self_study import RECITE
from pipeline.corpus.questions import normalized
from pipeline.self_study.plan import Plan
from pipeline.self_study.writing import Sampling, Writer

_LABEL = re.compile(r"^(?:question|request|q)\s*\d*\s*[:.]\s*", re.IGNORECASE)
_ANSWER = re.compile(r"\n\s*(?:answer|a)\s*:.*", re.IGNORECASE | re.DOTALL)
_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The rows of a chunk, and how many questions were dropped, by reason."""

    rows: list[Row]
    dropped: dict[str, int]


def ask_about(plan: Plan, index: int, writer: Writer, is_known: Callable[[str], bool]) -> Asked:
    """The questions about a chunk and their answers; what `is_known`, normalised, is not answered.

    The recitals of the chunk stand behind them.

    Raises PipelineError when the writer cannot be had.
    """
    settings, chunk = plan.settings, plan.chunks[index]
    prompts = plan.prompts(index)
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_question_tokens)
    requests = [
        plan.request(index, number, prompt.prompt.strip(), "question")
        for number, prompt in enumerate(prompts)
    ]
    dropped: Counter[str] = Counter()
    kept: dict[str, tuple[int, str]] = {}
    for number, written in enumerate(writer.write(chunk.context, requests, sampling)):
        question = tidy_question(written.text)
        known = normalized(question)
        if not question:
            dropped["empty question"] += 1
        elif not written.is_finished and settings.unfinished == "drop":
            dropped["unfinished question"] += 1
        elif known in kept or is_known(known):
            dropped["repeated question"] += 1
        else:
            kept[known] = number, question
    sampling = Sampling(settings.answer_temperature, settings.top_p, settings.max_answer_tokens)
    asked = list(kept.values())
    requests = [plan.request(index, number, text, "answer") for number, text in asked]
    rows: list[Row] = []
    answers = writer.write(chunk.context, requests, sampling)
    for (number, question), written in zip(asked, answers, strict=True):
        if not written.text:
            dropped["empty answer"] += 1
        elif not written.is_finished and settings.unfinished == "drop":
            dropped["unfinished answer"] += 1
        else:
            kind = prompts[number].kind
            rows.append(_row(plan, index, kind, number, question, written.text))
    for number, recital in enumerate(plan.recitals(index)):
        if is_known(normalized(recital.question)):
            dropped["repeated question"] += 1
        else:
            rows.append(_row(plan, index, RECITE, number, recital.question, recital.answer))
    return Asked(rows, dict(sorted(dropped.items())))


def _row(plan: Plan, index: int, kind: str, number: int, question: str, answer: str) -> Row:
    chunk = plan.chunks[index]
    return {
        "id": f"{index}-{kind}-{number}",
        "document": chunk.document,
        "chunk": chunk.number,
        "context": chunk.context,
        "kind": kind,
        "question": question,
        "answer": answer,
    }


def tidy_question(text: str) -> str:
    """A question without a label before it, quotation marks around it, and an answer after it."""
    text = _ANSWER.sub("", _LABEL.sub("", text.strip())).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
