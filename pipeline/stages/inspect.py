"""Stage `inspect`: what is inside the best prefix, and the words that every start came from."""

from pipeline.comparison.summary import best_evaluated
from pipeline.config import Params
from pipeline.inference.selection import load_prefix
from pipeline.inspection.folder import write_found
from pipeline.inspection.looking import look_into
from pipeline.inspection.origins import origins
from pipeline.inspection.shown import shown
from pipeline.inspection.variant import prefix_of
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_csv
from pipeline.sweep.unlisted import remove_unlisted
from pipeline.workspace import paths


def run(params: Params) -> None:
    """Write data/inspection/best and data/inspection/starts.csv, and print the tables."""
    remove_unlisted(params)
    best, wanted = best_evaluated(params), params.inspection
    prefix = prefix_of(
        params,
        best,
        lambda frozen: load_prefix(params, best, frozen),
        wanted.split,
        wanted.examples,
    )
    write_csv(paths.STARTS, origins(params, prefix.model.frozen_model, prefix.tokenizer))
    found = look_into(prefix, params.memory.max_tokens_per_batch, title="inspect")
    prefix.model.detach()
    with atomic_folder(paths.BEST_INSPECTION) as folder:
        write_found(found, folder)
    print(shown(found))
