"""The digest of everything that determines a training: what a checkpoint is good for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.prefix import KVPrefix
from pipeline.standing.stage_code import ROOT, code_of
from pipeline.workspace.checksums import add_file, add_folder

_LIBRARIES = ("torch", "transformers")


def digest_of_training(
    settings: Mapping[str, Any],
    start: KVPrefix,
    inputs: Sequence[Path],
    distractors: Mapping[str, Path],
    stage: str,
) -> str:
    """A sha256 over settings, the start, inputs, files of other prefixes, code and libraries.

    `inputs` are folders; `stage` is the one of dvc.yaml whose code it is.
    """
    digest = hashlib.sha256()
    whole = {**settings, "libraries": {name: version(name) for name in _LIBRARIES}}
    digest.update(json.dumps(whole, sort_keys=True).encode())
    names = [start.layers, start.parts, sorted(start.modules), sorted(start.states)]
    digest.update(json.dumps(names).encode())
    named = [*sorted(start.modules.items()), *sorted(start.states.items())]
    for tensor in (*start.keys, *start.values, *(tensor for _, tensor in named)):
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    for root in inputs:
        add_folder(digest, root)
    for name, path in distractors.items():
        add_file(digest, path, Path("distractors", name))
    for path in code_of(stage):
        add_file(digest, path, path.relative_to(ROOT))
    return digest.hexdigest()
