"""Which of transformers' auto classes loads a model for a task.

Of a multimodal checkpoint the part that reads and writes text is loaded where transformers has a
class for it; any other is loaded whole (Qwen2.5-VL), and used with text alone.
"""

from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from pipeline.errors import PipelineError

# For each type of task the auto classes to ask, in this order, and what transformers calls them.
_CLASSES = {
    "causal_lm": (
        (transformers.AutoModelForCausalLM, "CAUSAL_LM"),
        (transformers.AutoModelForMultimodalLM, "MULTIMODAL_LM"),
    ),
    "seq2seq_lm": ((transformers.AutoModelForSeq2SeqLM, "SEQ_TO_SEQ_CAUSAL_LM"),),
    "seq_cls": ((transformers.AutoModelForSequenceClassification, "SEQUENCE_CLASSIFICATION"),),
    "token_cls": ((transformers.AutoModelForTokenClassification, "TOKEN_CLASSIFICATION"),),
}


def auto_classes(task: str, model_type: str) -> list[Any]:
    """The auto classes that load a `model_type` for a type of task, to be asked in this order.

    The first loads the least, but not every checkpoint has its weights by the names it knows.
    Raises PipelineError where transformers has none, with the tasks for which it has.
    """
    found = _classes_of(task, model_type)
    if not found:
        others = tasks_of(model_type)
        fix = f"use {' or '.join(others)}, or another model" if others else "use another model"
        raise PipelineError(
            f"task.type: transformers has no model of type '{model_type}' for {task}; {fix}"
        )
    return found


def tasks_of(model_type: str) -> list[str]:
    """The types of task for which transformers has a model of this type."""
    return [task for task in _CLASSES if _classes_of(task, model_type)]


def _classes_of(task: str, model_type: str) -> list[Any]:
    return [
        loader
        for loader, name in _CLASSES[task]
        if model_type in getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")
    ]
