"""Trained prefixes by the names that a person gives, checked for llama.cpp."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from pipeline.config import Params
from pipeline.data.task_type import TaskType
from pipeline.errors import PipelineError
from pipeline.inference.selection import choose_prefix, load_chosen
from pipeline.models.for_task import load_for_task
from pipeline.prefix import KVPrefix
from pipeline.prefix.files.peft_format import WEIGHTS
from pipeline.serving.llama_cpp.placeholders import placeholder_ids, refuse_alike
from pipeline.serving.llama_cpp.refusals import refuse_beyond_decoders, refuse_prefix
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

    Raises PipelineError for tasks that llama.cpp does not serve, and where there is no model.
    """
    refuse_beyond_decoders(params)
    task = TaskType(params.task.type)
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task, device_map=params.device_map)
    return frozen if getattr(frozen, "is_quantized", False) else frozen.float()


def chosen_prefixes(
    params: Params, names: Sequence[str], frozen: PreTrainedModel, ordinary: Sequence[int]
) -> list[Chosen]:
    """The prefixes of these names: variants, imported adapters, files, adapters' folders, "best".

    Raises PipelineError or PrefixError where one is missing, does not fit the frozen model or is
    beyond llama.cpp, and where two could be taken for each other.
    """
    chosen: dict[str, Chosen] = {}
    for given in names:
        found = choose_prefix(params, given)
        name = found if isinstance(found, str) else _name(found)
        if name in chosen:
            raise PipelineError(f"--prefix: two are called {name}; rename a file, or leave one out")
        kv = load_chosen(params, found, frozen)
        refuse_prefix(name, kv, frozen.config, params.prefix.prefix_always_visible)
        sha256 = sha256_of(_file(params, found))
        chosen[name] = Chosen(name, kv, sha256, placeholder_ids(sha256, len(kv), ordinary))
    refuse_alike({name: each.placeholders for name, each in chosen.items()})
    return list(chosen.values())


def _name(path: Path) -> str:
    """A file's or folder's name; that of its folder for a `prefix.safetensors`."""
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.stem == "prefix" else path.stem


def _file(params: Params, found: str | Path) -> Path:
    if isinstance(found, Path):
        return found / WEIGHTS if found.is_dir() else found
    baseline = params.baselines.get(found)
    if baseline is not None and baseline.is_variant:
        return Path(baseline.path) / WEIGHTS
    return paths.TRAIN / found / "prefix.safetensors"
