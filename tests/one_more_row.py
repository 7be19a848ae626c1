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
    from matplotlib.figure import Figure

    from pipeline.comparison.plots import table
    from pipeline.comparison.plots.style import new_figure
    from pipeline.comparison.plots.subject import Subject
    from pipeline.config import load_params
    from pipeline.stages import baselines, evaluate, report
    from pipeline.sweep.grid import sweep

    def one_bar_each(subject: Subject) -> Figure:
        figure, axes = new_figure()
        axes.bar(subject.table["name"], subject.table[subject.column])
        axes.set_ylabel(subject.metric.axis)
        return figure

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
