"""Stage `self_study`: questions and answers about one corpus."""

from pipeline.config import Params
from pipeline.models.tokenizer import load_tokenizer
from pipeline.preflight.names import check_self_study
from pipeline.self_study.plan import plan_of
from pipeline.self_study.run import run_study
from pipeline.workspace import paths
from pipeline.workspace.checkpoints import study_name


def run(params: Params, name: str) -> None:
    """Write data/self_study/<name>: train and validation rows, and what was dropped of them.

    Finished chunks are kept beside the checkpoints of trainings and taken up by the next start.
    """
    check_self_study(params, name)
    plan = plan_of(name, params.self_study[name], load_tokenizer(paths.MODEL))
    run_study(params, plan, name, study_name(name), "self_study", paths.SELF_STUDY / name)
