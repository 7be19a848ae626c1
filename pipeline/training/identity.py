"""The digest of everything that determines a training: what a checkpoint is good for."""

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.prefix import KVPrefix
from pipeline.prefix.demonstrated import DEMONSTRATIONS
from pipeline.standing.stage_code import ROOT, code_of
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from pipeline.workspace.checksums import add_file, add_folder

_LIBRARIES = ("torch", "transformers")


def training_digest(params: Params, variant: Variant, start: KVPrefix) -> str:
    """A sha256 over params, inputs, the start, the code and the libraries of one training.

    Number of threads and kind of processor are not in it: on one machine they stay, and a training
    is worth more than its last bit on another.
    """
    digest = hashlib.sha256()
    settings: dict[str, Any] = {
        "variant": variant.name,
        "train": params.train.model_dump(),
        "prefix": params.prefix.model_dump(),
        "demonstrations": start.metadata.get(DEMONSTRATIONS),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    names = [start.layers, start.parts, sorted(start.modules), sorted(start.states)]
    digest.update(json.dumps(names).encode())
    named = [*sorted(start.modules.items()), *sorted(start.states.items())]
    for tensor in (*start.keys, *start.values, *(tensor for _, tensor in named)):
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    objective = params.train.objective
    taught = [Path(objective.path)] if objective.distilled else []
    for root in (paths.MODEL, paths.TOKENIZED / "splits", *taught):
        add_folder(digest, root)
    for name, path in params.prefix.distractors.files().items():
        add_file(digest, path, Path("distractors", name))
    for path in code_of_training():
        add_file(digest, path, path.relative_to(ROOT))
    return digest.hexdigest()


def code_of_training() -> Iterator[Path]:
    """The files of this package that the stage `train` depends on."""
    return code_of("train")
