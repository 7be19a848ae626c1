"""The digest of all that determines a self-study: what its kept chunks are good for."""

import hashlib
import json
from importlib.metadata import version

from pipeline.self_study.plan import Plan
from pipeline.standing.stage_code import ROOT, code_of
from pipeline.workspace import paths
from pipeline.workspace.checksums import add_file, add_folder

_LIBRARIES = ("torch", "transformers")


def study_digest(plan: Plan, stage: str) -> str:
    """A sha256 over settings, corpus, frozen model, code of the stage and libraries.

    How much is computed at once is not in it, nor are threads and the kind of processor, nor the
    length of summaries, which are kept by it.
    """
    digest = hashlib.sha256()
    settings = {
        "settings": plan.settings.model_dump(mode="json", exclude={"summary_tokens"}),
        "chunks": [[c.document, c.number, c.context] for c in plan.chunks],
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    add_folder(digest, paths.MODEL)
    for path in code_of(stage):
        add_file(digest, path, path.relative_to(ROOT))
    return digest.hexdigest()
