"""What the stage `baselines` hands to a baseline."""

from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config import Params
from pipeline.data.splits import load_split
from pipeline.data.task_type import task_of
from pipeline.errors import PipelineError
from pipeline.models.for_task import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.architecture.context import context_of
from pipeline.workspace import paths


@dataclass(frozen=True)
class ForBaseline:
    """A `MeasureContext` of params.yaml, data/model and the tokenized splits."""

    params: Params

    @cached_property
    def frozen_model(self) -> PreTrainedModel:
        """The frozen model in the precision of `evaluate`."""
        task = task_of(paths.TOKENIZED / "splits")
        model, _ = load_for_task(paths.MODEL, self.params.evaluate, task)
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The frozen model's tokenizer."""
        return load_tokenizer(paths.MODEL)

    def free_positions(self) -> int:
        """The positions that no example measured takes, its generated text included."""
        context = context_of(self.frozen_model)
        if context is None:
            raise PipelineError(
                "baselines: this model names no limit of its context, so that max_tokens: null is "
                "without end; give a number"
            )
        longest = 0
        for name in self.params.evaluate.measured_splits:
            split = load_split(paths.TOKENIZED / "splits", name)
            whole = max(map(len, split["input_ids"]))
            generated = max(split["target_start"]) + self.params.evaluate.max_new_tokens
            longest = max(longest, whole, generated)
        if longest >= context:
            raise PipelineError(
                f"baselines: the longest example takes {longest} of the model's {context} "
                "positions and leaves no room for a text; lower evaluate.max_new_tokens or "
                "task.max_length"
            )
        return context - longest
