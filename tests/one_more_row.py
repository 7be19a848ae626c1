"""The stages from `evaluate` on, with a row more in the table of metrics and of plots.

A program of its own, run in a workspace whose trainings are done: the schema of params.yaml takes
its metrics from the table once, when it is imported.
"""

from collections.abc import Sequence

from pipeline.metrics.means import mean
from pipeline.metrics.metric import NUMBER, OfText
from pipeline.metrics.table import METRICS


def characters(prediction: str, references: Sequence[str]) -> float:
    return float(len(prediction))


METRICS["characters"] = OfText(
    name="characters",
    title="length of texts",
    label="length of generated texts",
    unit="characters",
    form=NUMBER,
    higher_is_better=True,
    keep=characters,
    score=mean,
)


def main() -> None:
    import altair as alt

    from pipeline.comparison.plots import table
    from pipeline.comparison.plots.style import Chart, finished, series_of
    from pipeline.comparison.plots.subject import Subject
    from pipeline.config import load_params
    from pipeline.stages import baselines, evaluate, report
    from pipeline.sweep.grid import sweep

    def one_bar_each(subject: Subject) -> Chart:
        rows = alt.InlineData(values=list(subject.rows(subject.seeds)))
        bars = alt.Chart(rows).mark_bar()
        chart = bars.encode(x="name:N", y=alt.Y("y:Q", title=subject.metric.axis))
        return finished(chart, subject.against("name"), series_of(subject.seeds))

    row = table.Plot(
        file="{split}_{metric}_bars.png",
        title="{split}: {metric} in bars",
        draw=one_bar_each,
        shows=table.sorted_by,
    )
    table.PLOTS = (*table.PLOTS, row)
    params = load_params()
    for variant in sweep(params):
        evaluate.run(params, variant)
    baselines.run(params, "no_prefix")
    report.run(params)


if __name__ == "__main__":
    main()
