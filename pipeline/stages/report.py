"""Stage `report`: every variant and baseline side by side, on disk and in MLflow."""

from pipeline.adapters.export import export_best
from pipeline.comparison.budget_tables import budget_tables
from pipeline.comparison.conclusion import who_won
from pipeline.comparison.drawn_by_dvc import write_drawn
from pipeline.comparison.inspected import stills_inside
from pipeline.comparison.loss_curves import loss_curves
from pipeline.comparison.over_seeds import over_seeds
from pipeline.comparison.page import HTML, write_page
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.table import draw
from pipeline.comparison.rate_tables import rate_tables
from pipeline.comparison.shown_by_dvc import write_for_dvc
from pipeline.comparison.summary import statistics_of_all, summarize
from pipeline.comparison.tables import as_markdown, as_sections, over_seeds_as_markdown
from pipeline.comparison.timings import write_timings
from pipeline.config import Params
from pipeline.inference.selection import best_of
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_csv, write_text
from pipeline.sweep.grid import all_baselines, sweep
from pipeline.sweep.unlisted import remove_unlisted
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation_log import log_baseline, log_variant
from pipeline.tracking.registered_model import mark_best
from pipeline.tracking.store import never_fatal
from pipeline.tracking.sweep_run import log_sweep
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import remove_checkpoints, studies_in


def run(params: Params) -> None:
    """Write data/report and data/dvc, print the summary, and complete MLflow from the files."""
    remove_unlisted(params)
    statistics = statistics_of_all(params)
    table = summarize(params, statistics)
    seeds = over_seeds(table, statistics, params)
    curves = loss_curves(params)
    best = best_of(table)
    text = as_markdown(table, params)
    more = as_sections([*rate_tables(seeds, params), *budget_tables(seeds, params)])
    write_text(paths.REPORT / "summary.md", "\n\n".join(filter(None, (text, more))) + "\n")
    write_csv(paths.REPORT / "summary.csv", table)
    write_text(paths.REPORT / "over_seeds.md", over_seeds_as_markdown(seeds, params) + "\n")
    write_csv(paths.REPORT / "over_seeds.csv", seeds)
    write_for_dvc(table, params, paths.DVC, paths.REPORT / "best.json")
    write_drawn(table, params, paths.REPORT)
    charts = draw(params, table, seeds, curves)
    with atomic_folder(paths.REPORT / "plots") as folder:
        for file, chart in (charts | stills_inside(best)).items():
            save(chart, folder / file, params.report.dpi)
    export_best(params, best, paths.REPORT / "best")
    write_page(params, table, seeds, statistics, best, charts, paths.REPORT)
    timed = write_timings(params, table, seeds, paths.TIMINGS)
    print(text)
    # Trained, evaluated and kept by DVC: nothing is to be resumed any more.
    kept = location.home() / paths.CHECKPOINTS
    remove_checkpoints(kept, *(v.name for v in sweep(params)), *studies_in(kept))
    print(f"\nThe report, with plots and examples: {paths.REPORT / HTML}")
    with never_fatal("log the report"):
        deliver_pending()
        runs = {v.name: log_variant(params, v) for v in sweep(params)}
        runs |= {b.name: log_baseline(params, b) for b in all_baselines(params)}
        mark_best(params, runs[best])
        log_sweep(params, paths.REPORT, timed, runs, who_won(table, params))
