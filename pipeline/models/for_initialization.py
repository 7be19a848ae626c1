"""What the stage `kv_prefix` hands to an initialisation."""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config import Params
from pipeline.data.rendering import Renderer
from pipeline.data.task_type import TaskType
from pipeline.data.tokenizing import TokenizedSplit
from pipeline.errors import PipelineError
from pipeline.models.shared import load_for_task
from pipeline.models.tokenizer import load_tokenizer
from pipeline.storage.records import each_of_jsonl
from pipeline.workspace import paths


@dataclass(frozen=True)
class ForInitialization:
    """A `CacheContext` of params.yaml and data/model; what no one asks for is not loaded."""

    params: Params
    name: str

    @property
    def max_length(self) -> int:
        """Tokens of KV cache."""
        return self.params.kv_prefix.max_length

    @property
    def use_chat_template(self) -> bool:
        """Whether rows are rendered as turns of a chat."""
        return self.params.task.use_chat_template

    @property
    def has_encoder(self) -> bool:
        """Whether inputs and targets are read apart."""
        return self.params.task.type == "seq2seq_lm"

    @property
    def rendering(self) -> Renderer:
        """The task's renderer."""
        return Renderer(self.params.task, self.tokenizer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The frozen model's tokenizer."""
        return load_tokenizer(paths.MODEL)

    def validation(self, path: Path, most: int, begins_text: bool) -> list[tuple[list[int], int]]:
        """The first examples of a file of raw rows, by the task's policies."""
        if self.params.task.type != "causal_lm":
            raise PipelineError(
                f"initializations.{self.name}: is chosen by the loss of validation, which needs "
                "task.type: causal_lm; leave it out"
            )
        split = TokenizedSplit(self.rendering, path.stem, each_of_jsonl(path))
        rows = list(islice(split, most))
        left_out = [row.get("beginning", 0) if begins_text else 0 for row in rows]
        return [
            (row["input_ids"][count:], row["target_start"] - count)
            for row, count in zip(rows, left_out, strict=True)
        ]

    @cached_property
    def frozen_model(self) -> PreTrainedModel:
        """The frozen model in the precision of `kv_prefix`."""
        # A prefix does not depend on a classifier's head: any two labels will do.
        task = TaskType(self.params.task.type, ("0", "1"))
        model, _ = load_for_task(
            paths.MODEL, self.params.kv_prefix, task, device_map=self.params.device_map
        )
        return model
