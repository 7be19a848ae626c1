"""A self-study from its plan to its files; what is finished outlives a process that is killed."""

from pathlib import Path

from pipeline.config import Params
from pipeline.config.self_study import ServerGenerator
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.packed.backends import use_backend
from pipeline.self_study.frozen_model import FrozenModelWriter
from pipeline.self_study.identity import study_digest
from pipeline.self_study.kept import KeptChunks
from pipeline.self_study.plan import Plan
from pipeline.self_study.server import ServerWriter
from pipeline.self_study.study import ask_all, write_study
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import checkpoint_name, held, remove_checkpoints


def run_study(
    params: Params, plan: Plan, name: str, kept_as: str, dvc_stage: str, folder: Path
) -> None:
    """Write into `folder` what `write_study` writes of a plan, asking what is not kept yet.

    Finished chunks are kept beside the checkpoints of trainings, under `kept_as`, and taken up by
    the next start of the stage `dvc_stage`.
    """
    print(plan.size(name), flush=True)
    kept_in = location.home() / paths.CHECKPOINTS
    kept_in /= checkpoint_name(kept_as, study_digest(plan, dvc_stage))
    kept_in.mkdir(parents=True, exist_ok=True)
    kept = KeptChunks(kept_in)
    with held(kept_in, f"is at work on {plan.key}; stop it first"):
        writer = _writer(params, plan)
        try:
            ask_all(plan, writer, kept, name)
        finally:
            writer.close()
        write_study(plan, kept, name, folder)
    if not location.is_temporary():
        # Its own stay until the sweep's report: DVC has yet to take the outputs over.
        remove_checkpoints(kept_in.parent, kept_as, keep=kept_in.name)


def _writer(params: Params, plan: Plan) -> FrozenModelWriter | ServerWriter:
    generator = plan.settings.generator
    if isinstance(generator, ServerGenerator):
        return ServerWriter(generator, f"{plan.key}.generator")
    use_backend(params.hardware.attention)
    frozen = load_frozen_model(paths.MODEL, generator, params.device_map)
    tokenizer = load_tokenizer(paths.MODEL)
    return FrozenModelWriter(frozen, tokenizer, params.memory.max_tokens_per_batch)
