"""What the stage `kv_prefix` computes of an initialisation, once for all lengths."""

from pathlib import Path

from transformers import PreTrainedModel

from pipeline.config import Params
from pipeline.config.compute import Compute
from pipeline.config.initializations import (
    Initialization,
    PrefixFile,
    TrainedVariant,
)
from pipeline.data.task_type import TaskType
from pipeline.initialization.corpus import Corpus
from pipeline.models.for_task import load_for_task
from pipeline.prefix import KVPrefix, kv_prefix_from_source_tokens, kv_prefix_from_tokens
from pipeline.prefix.architecture.shapes import adapter_shapes
from pipeline.prefix.files.peft_format import load_adapter
from pipeline.workspace import paths


def prefill(model: PreTrainedModel, corpus: Corpus) -> KVPrefix:
    """The keys and values that the frozen model computes of a corpus, float32."""
    if corpus.written is None:
        return kv_prefix_from_tokens(model, corpus.tokens)
    return kv_prefix_from_source_tokens(model, corpus.tokens, corpus.written)


def prefix_of_file(definition: Initialization, params: Params) -> KVPrefix | None:
    """The prefix that an initialisation names as a file or a PEFT adapter folder; None for others.

    Raises PrefixError when there is none, or it is not of this model.
    """
    if not isinstance(definition, PrefixFile | TrainedVariant):
        return None

    path = Path(definition.path)
    if not path.is_dir():
        return KVPrefix.load(path)

    task = TaskType(params.task.type, ("0", "1"))
    model, _ = load_for_task(paths.MODEL, Compute(), task)
    return load_adapter(path, adapter_shapes(model))
