"""What the stage `baselines` hands to a baseline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.baselines import context as given
from pipeline.config import Params
from pipeline.data.context_prompt import ContextPrompt, TextPrompt
from pipeline.data.few_shot import FewShotPrompt
from pipeline.data.portions import portions
from pipeline.data.rendering import Renderer
from pipeline.data.rewritten import rewritten
from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import load_split
from pipeline.data.subset import subset
from pipeline.data.task_type import task_of
from pipeline.errors import PipelineError
from pipeline.models.for_variant import start_prefix
from pipeline.models.shared import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.models.trainable import start_config
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.architecture.context import context_of
from pipeline.schema.placing import Placed
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

_PROBE = "a text"


@dataclass(frozen=True)
class ForBaseline:
    """A `MeasureContext` of params.yaml, data/model and the tokenized splits."""

    params: Params

    @cached_property
    def frozen_model(self) -> PreTrainedModel:
        """The frozen model in the precision of `evaluate`."""
        task = task_of(paths.TOKENIZED / "splits")
        model, _ = load_for_task(
            paths.MODEL, self.params.evaluate, task, device_map=self.params.device_map
        )
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The frozen model's tokenizer."""
        return load_tokenizer(paths.MODEL)

    def tokens(self, text: str) -> tuple[list[int], int]:
        """A text's tokens as the task's inputs would begin."""
        return Renderer(self.params.task, self.tokenizer).tokens(text, is_chat=False)

    @cached_property
    def splits(self) -> list[Dataset]:
        """The splits of `evaluate`, and validation, by which the best of several is chosen."""
        names = self.params.evaluate.measured_splits
        return [load_split(paths.TOKENIZED / "splits", name) for name in names]

    def train_examples(self, longest: int | None = None) -> int:
        """The examples of the training split, of up to `longest` tokens."""
        return len(self._train_up_to(longest))

    def few_shot(
        self, shots: int, instructions: str | None, seed: int, longest: int | None = None
    ) -> FewShotPrompt:
        """The first examples of a seeded shuffle of the training split.

        Those of more than `longest` tokens are passed over.
        """
        shown = subset(self._train_up_to(longest), shots, seed)
        return FewShotPrompt(
            Renderer(self.params.task, self.tokenizer), shown.to_list(), instructions
        )

    def each_after(
        self, key: str, placed: Placed, text_for: Callable[[str], str]
    ) -> Callable[[Dataset], Dataset]:
        """What gives a split's examples as they go on after a text that each input has of its own.

        It raises PipelineError for an example that the model's context has no room for.
        """
        prompt = self._prompt(key, placed)
        prompt.refuse_lost(_PROBE)
        context, generated = context_of(self.frozen_model), self.params.evaluate.max_new_tokens

        def after(row: Mapping[str, Any]) -> dict[str, Any]:
            before = prompt.input_ids(text_for(str(row["input"])), row)
            target = list(row["input_ids"][row["target_start"] :])
            taken = len(before) + max(len(target), generated)
            if context is not None and taken > context:
                raise PipelineError(
                    f"{key}: example {row['id']} takes {taken} tokens with the text before it and "
                    f"what is generated, more than the model's context of {context} positions; put "
                    "less before it"
                )
            return {"input_ids": before + target, "target_start": len(before)}

        return lambda split: rewritten(split, after)

    def all_after(self, key: str, placed: Placed, text: str) -> TextPrompt:
        """The same text before every input, as a teacher reads it."""
        return self._prompt(key, placed).after(text)

    def start(self, initialization: str, length: int) -> KVPrefix:
        """What `train` would start from, in the precision of `evaluate`."""
        model = PrefixModel(self.frozen_model, start_config(self.params.prefix, length))
        try:
            return model.chosen_of(start_prefix(Variant(length, initialization, 0), model))
        finally:
            model.detach()

    @property
    def starts_always_visible(self) -> bool:
        """`prefix.prefix_always_visible`."""
        return self.params.prefix.prefix_always_visible

    def _prompt(self, key: str, placed: Placed) -> ContextPrompt:
        return ContextPrompt(key, placed, Renderer(self.params.task, self.tokenizer))

    def room_before(self, prompt: given.SharedPrompt) -> int | None:
        """The model's context without the longest input and what it generates or is scored by."""
        context = context_of(self.frozen_model)
        if context is None:
            return None
        shared = prompt.shared_by(self.splits)
        longest = 0
        for split in self.splits:
            for part in portions(split):
                for row in prompt.follow(part, shared):
                    generated = row["target_start"] + self.params.evaluate.max_new_tokens
                    longest = max(longest, len(row["input_ids"]), generated)
        return context - longest

    def _train_up_to(self, longest: int | None) -> Dataset:
        if longest is None:
            return self._train
        return self._train.select(np.flatnonzero(self._train_tokens <= longest))

    @cached_property
    def _train(self) -> Dataset:
        return load_split(paths.TOKENIZED / "splits", "train")

    @cached_property
    def _train_tokens(self) -> np.ndarray:
        return TokenizedRows(self._train, ["input_ids"]).tokens

    def free_positions(self) -> int:
        """The positions that no example measured takes, its generated text included."""
        context = context_of(self.frozen_model)
        if context is None:
            raise PipelineError(
                "baselines: this model names no limit of its context, so that max_tokens: null is "
                "without end; give a number"
            )
        longest = 0
        for split in self.splits:
            rows = TokenizedRows(split, ["input_ids", "target_start"])
            generated = int(rows.target_starts.max()) + self.params.evaluate.max_new_tokens
            longest = max(longest, int(rows.tokens.max()), generated)
        if longest >= context:
            raise PipelineError(
                f"baselines: the longest example takes {longest} of the model's {context} "
                "positions and leaves no room for a text; lower evaluate.max_new_tokens or "
                "task.max_length"
            )
        return context - longest
