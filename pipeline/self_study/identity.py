"""The digest of all that determines a self-study: what its kept chunks are good for."""

import hashlib
import json
from importlib.metadata import version

from pipeline.self_study.plan import Plan
from pipeline.standing.stage_code import ROOT, code_of
from pipeline.workspace import paths
from pipeline.workspace.checksums import sha256_of

_LIBRARIES = ("torch", "transformers")


def study_digest(plan: Plan) -> str:
    """A sha256 over settings, corpus, frozen model, code and libraries.

    How much is computed at once is not in it, nor are threads and the kind of processor.
    """
    digest = hashlib.sha256()
    settings = {
        "settings": plan.settings.model_dump(mode="json"),
        "chunks": [[c.document, c.number, c.context] for c in plan.chunks],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    model = sorted(path for path in paths.MODEL.rglob("*") if path.is_file())
    files = [(path, path.relative_to(paths.MODEL)) for path in model]
    files += [(path, path.relative_to(ROOT)) for path in code_of("self_study")]
    for path, name in files:
        digest.update(f"{name.as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
