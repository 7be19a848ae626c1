"""The whole of a self-study: chunk by chunk, then split by question and counted."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.self_study import RECITE, SUMMARY
from pipeline.corpus.questions import normalized
from pipeline.errors import PipelineError
from pipeline.progress.bar import Bar
from pipeline.self_study.asking import Asked, Row, ask_about
from pipeline.self_study.kept import KeptChunks
from pipeline.self_study.plan import Plan
from pipeline.self_study.summing_up import sum_up, summary
from pipeline.self_study.writing import Writer
from pipeline.storage.records import write_json, write_jsonl, write_text


def ask_all(plan: Plan, writer: Writer, kept: KeptChunks, name: str) -> None:
    """Ask about every chunk that is not kept yet, and sum it up where the settings say so.

    Each is kept as soon as it is finished. A question that stands in an earlier chunk already is
    dropped: without a text before it the same question has one answer.
    """
    known: set[bytes] = set()
    per_chunk = plan.settings.questions_per_chunk
    with Bar(plan.questions, f"self-study {name}", "question") as bar:
        for index in range(len(plan.chunks)):
            asked = kept.load(index)
            if asked is None:
                asked = ask_about(plan, index, writer, lambda text: _digest(text) in known)
                kept.save(index, asked)
            sum_up(plan, index, writer, kept)
            known.update(_digest(normalized(row["question"])) for row in asked.rows)
            bar.update(per_chunk)


def write_study(plan: Plan, kept: KeptChunks, name: str, folder: Path) -> None:
    """Write `train.jsonl`, `validation.jsonl`, `statistics.json` and `summary.txt`.

    Rows stand in the order of the chunks, which are all finished; a question is in one of the two.
    Recitals are for training: what is not recited there would not be learnt.
    Without summaries `summary.txt` is empty.

    Raises:
        PipelineError: when fewer than two questions are left.
    """
    dropped: Counter[str] = Counter()
    questions: list[str] = []
    recited: list[str] = []
    kinds: Counter[str] = Counter()
    for asked in _each(plan, kept):
        dropped.update(asked.dropped)
        for row in asked.rows:
            kinds[row["kind"]] += 1
            (recited if row["kind"] == RECITE else questions).append(row["question"])
    if len(questions) + len(recited) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise PipelineError(
            f"{plan.key}: of {plan.questions} questions {len(questions)} are left "
            f"({reasons}); raise max_question_tokens or max_answer_tokens, set unfinished to keep, "
            "or use a stronger model as the generator"
        )
    validation = _validation(plan, questions if len(questions) > 1 else [*questions, *recited])
    write_jsonl(folder / "train.jsonl", _rows(plan, kept, validation, False))
    write_jsonl(folder / "validation.jsonl", _rows(plan, kept, validation, True))
    statistics: dict[str, Any] = {
        "documents": plan.documents,
        "tokens": plan.tokens,
        "chunks": len(plan.chunks),
        "questions_asked": plan.questions,
        "dropped": dict(sorted(dropped.items())),
        "rows": {
            "train": len(questions) + len(recited) - len(validation),
            "validation": len(validation),
        },
        "rows_by_kind": {kind: kinds[kind] for kind in plan.kinds},
    }
    write_json(folder / "statistics.json", statistics)
    write_text(folder / SUMMARY, summary(plan, kept))
    recitals = f" and {len(recited)} recitals" if recited else ""
    print(
        f"{name}: {len(questions)} of {plan.questions} questions are left{recitals}, "
        f"{len(validation)} of them for validation; dropped: "
        f"{', '.join(f'{n} {why}' for why, n in sorted(dropped.items())) or 'none'}"
    )


def _validation(plan: Plan, questions: list[str]) -> set[str]:
    """The questions of the validation split: drawn by the seed, whatever others there are."""
    wanted = max(1, round(plan.settings.validation_fraction * len(questions)))
    count = min(len(questions) - 1, wanted)
    seed = plan.settings.seed
    return set(sorted(questions, key=lambda text: _digest(f"{seed} {normalized(text)}"))[:count])


def _rows(plan: Plan, kept: KeptChunks, validation: set[str], is_validation: bool) -> Iterator[Row]:
    for asked in _each(plan, kept):
        yield from (row for row in asked.rows if (row["question"] in validation) == is_validation)


def _each(plan: Plan, kept: KeptChunks) -> Iterator[Asked]:
    for index in range(len(plan.chunks)):
        asked = kept.load(index)
        if asked is None:
            raise PipelineError(
                f"{kept.folder}: a finished chunk is gone or damaged; run the stage again"
            )
        yield asked


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
