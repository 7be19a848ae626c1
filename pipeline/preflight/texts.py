"""Whether the texts that prefixes start from are long enough for them."""

from collections.abc import Callable, Iterator

from pipeline.baselines.untrained_start import UntrainedStart
from pipeline.config import Params


def check_texts(params: Params, tokens_in: Callable[[str], int]) -> None:
    """Raise PipelineError for a text that is there and has too few tokens.

    `tokens_in` counts a text's tokens.
    """
    for name, start in params.initializations.items():
        longest = max(lengths_from(name, params), default=0)
        start.check_text(name, tokens_in, params.kv_prefix.max_length, longest)


def lengths_from(initialization: str, params: Params) -> Iterator[int]:
    """The virtual tokens of every prefix that starts from an initialisation."""
    yield from lengths_by_themselves(initialization, params)
    for trained in params.trained_baselines.values():
        beginning = trained.begins_from
        if beginning is not None and beginning.initialization == initialization:
            yield beginning.length


def lengths_by_themselves(initialization: str, params: Params) -> Iterator[int]:
    """Those of variants, and of baselines that measure a start as variants have it."""
    if initialization in params.sweep.initializations:
        yield from params.sweep.lengths
    for baseline in params.baselines.values():
        if isinstance(baseline, UntrainedStart) and baseline.initialization == initialization:
            yield baseline.length
