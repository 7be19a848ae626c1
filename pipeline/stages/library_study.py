"""Stage `library_study`: questions and answers about one document of a library."""

from pathlib import Path

from pipeline.config import Params
from pipeline.models.tokenizer import load_tokenizer
from pipeline.preflight.names import check_document
from pipeline.self_study.plan import plan_for
from pipeline.self_study.run import run_study
from pipeline.workspace import paths
from pipeline.workspace.checkpoints import document_name


def run(params: Params, name: str) -> None:
    """Write data/library/study/<name>: train and validation rows, and what was dropped of them."""
    check_document(params, name)
    library = params.library
    path = Path(library.documents[name])
    tokenizer = load_tokenizer(paths.MODEL)
    plan = plan_for(path, "library.documents", name, library.self_study, tokenizer)
    kept_as = document_name("study", name)
    run_study(params, plan, name, kept_as, "library_study", paths.LIBRARY_STUDY / name)
