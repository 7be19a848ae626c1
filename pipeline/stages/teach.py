"""Stage `teach`: what the frozen model predicts at every target with a text in its context."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from datasets import Dataset

from pipeline.config import Params
from pipeline.data.context_prompt import ContextPrompt
from pipeline.data.portions import portions
from pipeline.data.rendering import Renderer
from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import load_split
from pipeline.data.teacher import Portion, save_predictions
from pipeline.errors import PipelineError
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.packed.backends import use_backend
from pipeline.progress.bar import Bar
from pipeline.storage.atomic import atomic_folder
from pipeline.teaching.reading import Teacher
from pipeline.teaching.shards import Shard, Shards, digest_of
from pipeline.teaching.sizing import size_in_words
from pipeline.teaching.texts import TextOf, texts_of
from pipeline.workspace import paths

_EXAMPLES = 64
"""Those of a shard: what a killed stage computes again at the most."""


def run(params: Params, name: str) -> None:
    """Write data/teachers/<name>: of its splits the teacher's top k at every target.

    Killed, it goes on with the next run after the last shard that it kept, with the same bytes.
    """
    use_backend(params.hardware.attention)
    if name not in params.teachers:
        known = ", ".join(params.teachers) or "none"
        raise PipelineError(f"'{name}' is not under teachers of params.yaml; known: {known}")
    definition = params.teachers[name]
    path = Path(definition.path)
    kept: list[str] = [*definition.splits]
    splits = {split: load_split(paths.TOKENIZED / "splits", split) for split in kept}
    texts = {split: texts_of(name, path, split) for split in kept}
    renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
    prompt = ContextPrompt(f"teachers.{name}", definition, renderer)
    settings = {"task": params.task.model_dump(), "teacher": definition.model_dump()}
    digest = digest_of(settings, paths.MODEL, paths.TOKENIZED / "splits", path)
    frozen = load_frozen_model(paths.MODEL, definition, params.device_map)
    tokens = params.memory.max_tokens_per_batch
    shards = Shards(name, digest)
    with closing(Teacher(frozen, prompt, definition.top_k, tokens)) as teacher, shards.locked():
        context = None if path.is_dir() else len(prompt.shared(texts[kept[0]]("")))
        print(size_in_words(name, splits, teacher.top_k, context))
        with (
            atomic_folder(paths.TEACHERS / name) as folder,
            Bar(sum(map(len, splits.values())), f"teach {name}", "example") as bar,
        ):
            for split, rows in splits.items():
                predicted = _predicted(teacher, split, rows, texts[split], shards, bar)
                save_predictions(predicted, teacher.top_k, folder / split)
    # Once it is let go.
    shards.remove()


def _predicted(
    teacher: Teacher, name: str, split: Dataset, text_of: TextOf, shards: Shards, bar: Bar
) -> Iterator[Portion]:
    """A split's predictions a shard at a time, of which those that were kept are read."""
    for number, portion in enumerate(portions(split, _EXAMPLES)):
        shard = shards.load(name, number)
        if shard is None:
            shard = _computed(teacher, portion, text_of)
            shards.keep(name, number, shard)
        rows = TokenizedRows(portion, ["input_ids", "target_start"])
        yield portion["id"][:], rows.tokens - rows.target_starts, *shard
        bar.update(len(portion))


def _computed(teacher: Teacher, portion: Dataset, text_of: TextOf) -> Shard:
    rows = portion.to_list()
    found = teacher.predictions(rows, [text_of(row["id"]) for row in rows])
    ids, log_probs = (
        np.concatenate([t.numpy() for t in each]) for each in zip(*found, strict=True)
    )
    return ids, log_probs
