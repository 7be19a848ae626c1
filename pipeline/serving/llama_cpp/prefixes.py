"""Trained prefixes by the names that a person gives, checked for llama.cpp."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from pipeline.config import Params
from pipeline.data.task_type import TaskType
from pipeline.inference.selection import load_chosen
from pipeline.models.for_task import load_for_task
from pipeline.prefix import KVPrefix
from pipeline.prefix.files.peft_format import WEIGHTS
from pipeline.serving.llama_cpp.placeholders import placeholder_ids, refuse_alike
from pipeline.serving.llama_cpp.refusals import refuse_prefix
from pipeline.workspace import paths
from pipeline.workspace.checksums import sha256_of


@dataclass(frozen=True)
class Chosen:
    """A prefix to be served.

    Attributes:
        name: what requests call it.
        kv: its keys and values.
        sha256: of its file.
        placeholders: the p token ids that stand for it.
    """

    name: str
    kv: KVPrefix
    sha256: str
    placeholders: tuple[int, ...]


def load_frozen(params: Params) -> PreTrainedModel:
    """The frozen model, in float32 unless it is quantized.

    Raises PipelineError where there is no model.
    """
    task = TaskType(params.task.type)
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task, device_map=params.device_map)
    return frozen if getattr(frozen, "is_quantized", False) else frozen.float()


def chosen_prefixes(
    params: Params,
    named: Mapping[str, str | Path],
    frozen: PreTrainedModel,
    ordinary: Sequence[int],
) -> list[Chosen]:
    """The prefixes that `choose_prefix` returned, by name.

    Raises PipelineError or PrefixError where one is missing, does not fit the frozen model or is
    beyond llama.cpp, and where two could be taken for each other.
    """
    chosen = []
    for name, which in named.items():
        kv = load_chosen(params, which, frozen)
        refuse_prefix(name, kv, frozen.config, params.prefix.prefix_always_visible)
        sha256 = sha256_of(_file(params, which))
        chosen.append(Chosen(name, kv, sha256, placeholder_ids(sha256, len(kv), ordinary)))
    refuse_alike({each.name: (each.sha256, each.placeholders) for each in chosen})
    return chosen


def _file(params: Params, found: str | Path) -> Path:
    if isinstance(found, Path):
        return found / WEIGHTS if found.is_dir() else found
    baseline = params.baselines.get(found)
    if baseline is not None and baseline.is_variant:
        return Path(baseline.path) / WEIGHTS
    return paths.TRAIN / found / "prefix.safetensors"
