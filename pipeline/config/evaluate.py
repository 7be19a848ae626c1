"""The measurement on the test splits: the `evaluate` section."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from pipeline.schema.compute import Compute
from pipeline.schema.section import Count, distinct

TextMetric = Literal["exact_match", "token_f1", "bleu", "chrf", "rouge_l"]


LabelMetric = Literal["accuracy", "f1"]


class EvaluateParams(Compute):
    """The measurement on the test splits: the loss of the target, and greedy generation."""

    splits: Annotated[list[Literal["validation", "test", "test_unseen"]], Field(min_length=1)]
    # Of the generated text; loss and perplexity are measured in any case. Classifiers write none:
    # they have accuracy and F1 whatever is listed here.
    metrics: Annotated[list[TextMetric], AfterValidator(distinct)] = Field(
        default_factory=lambda: list(get_args(TextMetric))
    )
    max_new_tokens: Count = 32
    max_tokens_per_batch: Count = 4096
