"""Stage `self_study`: questions and answers about one corpus."""

from pipeline.config import Params
from pipeline.config.self_study import SelfStudy, ServerGenerator
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.packed.backends import use_backend
from pipeline.preflight.names import check_self_study
from pipeline.self_study.frozen_model import FrozenModelWriter
from pipeline.self_study.identity import study_digest
from pipeline.self_study.kept import KeptChunks
from pipeline.self_study.plan import plan_of
from pipeline.self_study.server import ServerWriter
from pipeline.self_study.study import ask_all, write_study
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import (
    checkpoint_name,
    held,
    remove_checkpoints,
    study_name,
)


def run(params: Params, name: str) -> None:
    """Write data/self_study/<name>: train and validation rows, and what was dropped of them.

    Finished chunks are kept beside the checkpoints of trainings and taken up by the next start.
    """
    check_self_study(params, name)
    settings = params.self_study[name]
    plan = plan_of(name, settings, load_tokenizer(paths.MODEL))
    print(plan.size(name), flush=True)
    folder = location.home() / paths.CHECKPOINTS
    folder /= checkpoint_name(study_name(name), study_digest(plan))
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptChunks(folder)
    with held(folder, f"is at work on self_study.{name}; stop it first"):
        writer = _writer(params, name, settings)
        try:
            ask_all(plan, writer, kept, name)
        finally:
            writer.close()
        write_study(plan, kept, name, paths.SELF_STUDY / name)
    if not location.is_temporary():
        # Its own stay until the sweep's report: DVC has yet to take the outputs over.
        remove_checkpoints(folder.parent, study_name(name), keep=folder.name)


def _writer(params: Params, name: str, settings: SelfStudy) -> FrozenModelWriter | ServerWriter:
    generator = settings.generator
    if isinstance(generator, ServerGenerator):
        return ServerWriter(generator, f"self_study.{name}.generator")
    use_backend(params.hardware.attention)
    frozen = load_frozen_model(paths.MODEL, generator, params.device_map)
    tokenizer = load_tokenizer(paths.MODEL)
    return FrozenModelWriter(frozen, tokenizer, params.memory.max_tokens_per_batch)
