"""The table of metrics: another one is a row here and its functions.

The schema of params.yaml, the measurement, the tables, plots and page of the report, and MLflow
take their metrics from it.
"""

from pipeline.metrics.answers import exact_match, token_f1
from pipeline.metrics.labels import counts_by_label, macro_f1, share_right
from pipeline.metrics.means import exponential, mean
from pipeline.metrics.metric import (
    NUMBER,
    OF_100,
    PERCENT,
    Metric,
    OfLabels,
    OfTarget,
    OfTeacher,
    OfText,
)
from pipeline.metrics.n_grams import bleu, bleu_counts, chrf, chrf_counts
from pipeline.metrics.rouge import rouge_l

_ROWS: tuple[Metric, ...] = (
    OfTarget(
        name="loss",
        title="loss",
        label="loss",
        unit="nats per target token",
        form=NUMBER,
        higher_is_better=False,
        score=mean,
    ),
    OfTarget(
        name="perplexity",
        title="perplexity",
        label="perplexity of the target",
        form=NUMBER,
        higher_is_better=False,
        score=exponential,
        restates="loss",
    ),
    OfTeacher(
        name="kl",
        title="KL",
        label="KL to the teacher",
        unit="nats per target token",
        form=NUMBER,
        higher_is_better=False,
        score=mean,
    ),
    OfText(
        name="exact_match",
        title="exact match",
        label="exact match",
        unit="share of examples",
        form=PERCENT,
        higher_is_better=True,
        highest=1.0,
        keep=exact_match,
        score=mean,
    ),
    OfText(
        name="token_f1",
        title="F1",
        label="token F1",
        unit="mean over examples",
        form=PERCENT,
        higher_is_better=True,
        highest=1.0,
        keep=token_f1,
        score=mean,
    ),
    OfText(
        name="bleu",
        title="BLEU",
        label="BLEU",
        unit="0 to 100",
        form=OF_100,
        higher_is_better=True,
        highest=100.0,
        kept="statistics",
        keep=bleu_counts,
        score=bleu,
    ),
    OfText(
        name="chrf",
        title="chrF",
        label="chrF",
        unit="0 to 100",
        form=OF_100,
        higher_is_better=True,
        highest=100.0,
        kept="statistics",
        keep=chrf_counts,
        score=chrf,
    ),
    OfText(
        name="rouge_l",
        title="ROUGE-L",
        label="ROUGE-L F measure",
        unit="mean over examples",
        form=PERCENT,
        higher_is_better=True,
        highest=1.0,
        keep=rouge_l,
        score=mean,
    ),
    OfLabels(
        name="accuracy",
        title="accuracy",
        label="accuracy",
        unit="share of labels",
        form=PERCENT,
        higher_is_better=True,
        highest=1.0,
        keep=share_right,
        score=mean,
    ),
    OfLabels(
        name="f1",
        title="macro F1",
        label="macro F1",
        unit="mean over labels",
        form=PERCENT,
        higher_is_better=True,
        highest=1.0,
        kept="statistics",
        keep=counts_by_label,
        score=macro_f1,
    ),
)

METRICS = {row.name: row for row in _ROWS}


def names_of(kind: type[Metric] = Metric) -> tuple[str, ...]:
    """The names of the metrics of one kind, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if isinstance(metric, kind))
