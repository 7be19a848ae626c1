"""Whether the model has the kinds of memory that params ask for a prefix in."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.config import Params
from pipeline.config.blocks import given_for_blocks
from pipeline.config.idle_rates import idle_rates
from pipeline.errors import PipelineError
from pipeline.preflight.saved_prefix import is_without_states, length_with_states
from pipeline.preflight.texts import lengths_by_themselves
from pipeline.sweep.variants import Variant


def check_kinds(params: Params, folder: Path) -> None:
    """Raise PipelineError for what the model in `folder` cannot do with or without states.

    The model's configuration is read, by transformers, only where something depends on it.
    """
    wanted = [
        *_needing_states(params),
        *_refusing_states(params),
        *_needing_attention(params),
        *_of_library(params),
        *_of_trained_baselines(params),
    ]
    if not wanted:
        return
    # Milliseconds without: `python -m pipeline check` imports no transformers otherwise.
    from pipeline.models.kinds import kinds_of_model

    kinds = kinds_of_model(folder)
    if kinds is None:
        return
    for is_refused, sentence in wanted:
        if is_refused(kinds):
            raise PipelineError(sentence)


Rule = tuple[Callable[[tuple[str, ...]], bool], str]
"""Whether a model of some kinds is refused, and the sentence for it."""


def _needing_states(params: Params) -> Iterator[Rule]:
    if "state" in (params.prefix.kinds or ()):
        yield (
            lambda kinds: "state" not in kinds,
            f"prefix.kinds: {params.prefix.kinds} names state, but no layer of this model is "
            "recurrent; use null",
        )
    if params.train.state_learning_rate is not None:
        yield (
            lambda kinds: "state" not in kinds,
            f"train.state_learning_rate: {params.train.state_learning_rate} is of initial states, "
            "but no layer of this model is recurrent; set it to null",
        )


def _needing_attention(params: Params) -> Iterator[Rule]:
    if "attention" in (params.prefix.kinds or ()):
        yield (
            _has_states_alone,
            f"prefix.kinds: {params.prefix.kinds} names attention, but no layer of this model "
            "attends; use null",
        )
    for key, value, unset in params.prefix.given_for_tokens:
        yield (
            _has_states_alone,
            f"prefix.{key}: {value} is of virtual tokens, but no layer of this model attends to "
            f"any; set it to {unset}",
        )
    for key, value, unset in given_for_blocks(params.train):
        yield (
            _has_states_alone,
            f"train.{key}: {str(value).lower()} is of keys and values, but no layer of this model "
            f"attends; set it to {str(unset).lower()}",
        )
    reason = "no layer of this model attends"
    for sentence in idle_rates(params.train, params.sweep, params.task, reason):
        yield _has_states_alone, sentence


def _refusing_states(params: Params) -> Iterator[Rule]:
    if params.hardware.attention != "auto":
        yield (
            _has_states,
            f"hardware.attention: {params.hardware.attention} is of packed rows, through which "
            "this model would carry a state from one example into the next; set it to auto",
        )
    if params.train.compile is True:
        yield (
            _has_states,
            "train.compile: true is for packed rows, through which this model would carry a state "
            "from one example into the next; set it to auto or false",
        )
    if params.prefix.leave_one_out:
        yield (
            _has_states,
            "prefix.leave_one_out: true hides keys and values of a training example, which the "
            "states of this model have read too; set it to false",
        )
    if (count := params.prefix.distractors.count) and params.prefix.kinds is None:
        yield (
            _has_states_alone,
            f"prefix.distractors.count: {count} needs prefixes of keys and values, but no layer of "
            "this model attends; set it to 0",
        )
        yield (
            _has_states,
            f"prefix.distractors.count: {count} needs prefixes of keys and values, and this model "
            "has states too, which cannot stand beside others; set prefix.kinds to [attention], or "
            "count to 0",
        )
    # The stage `kv_prefix` runs for all of them, in the sweep or not.
    for name, start in params.initializations.items():
        if start.chooses_tokens:
            yield (
                _has_states,
                f"initializations.{name}.type: {start.type} chooses single tokens of a text, "
                "which the states of this model do not keep apart; use corpus_text or "
                "corpus_chunks",
            )
    for name, start in params.initializations.items():
        # `prefix_and_lora` trains keys and values alone.
        lengths = list(lengths_by_themselves(name, params))
        if params.prefix.kinds == ["attention"] or not lengths:
            continue
        if start.type == "trained_variant":
            length = Variant.parse(Path(start.path).parent.name).length
            yield from _of_another_length(lengths, name, start.path, length)
        elif start.type == "prefix_file":
            with_states = length_with_states(Path(start.path))
            if with_states is not None:
                yield from _of_another_length(lengths, name, start.path, with_states)
            elif is_without_states(Path(start.path)):
                yield (
                    _has_states_alone,
                    f"initializations.{name}.path: '{start.path}' holds keys and values alone, but "
                    "no layer of this model attends; start from a text",
                )
                yield (
                    _has_states,
                    f"initializations.{name}.path: '{start.path}' holds keys and values alone, and "
                    "this model has states beside them; set prefix.kinds to [attention], or start "
                    "from a text",
                )


def _of_library(params: Params) -> Iterator[Rule]:
    """Rules for a library, whose prefixes are keys and values that stand beside each other."""
    library = params.library
    if not library.documents:
        return
    yield (
        _has_states_alone,
        "library.documents: their prefixes are keys and values, but no layer of this model "
        "attends; set it to {}",
    )
    if library.prefix.kinds is None:
        yield (
            _has_states,
            "library.prefix.kinds: null is for the states of this model too, which cannot stand "
            "beside others; use [attention]",
        )
    if library.train.compile is True:
        yield (
            _has_states,
            "library.train.compile: true is for packed rows, through which this model would carry "
            "a state from one example into the next; set it to auto or false",
        )


def _of_trained_baselines(params: Params) -> Iterator[Rule]:
    for name, baseline in params.trained_baselines.items():
        if baseline.needs_attention_alone:
            yield (
                _has_states,
                f"trained_baselines.{name}: {baseline.type} is of keys and values, and this model "
                "has states beside them; leave it out",
            )
        if baseline.begins_from is not None:
            yield (
                _has_states_alone,
                f"trained_baselines.{name}: {baseline.type} trains keys and values, but no layer "
                "of this model attends; leave it out",
            )


def _of_another_length(lengths: Sequence[int], name: str, path: str, length: int) -> Iterator[Rule]:
    others = [other for other in lengths if other != length]
    if others:
        sentence = (
            f"initializations.{name}.path: '{path}' holds states, made with {length} virtual "
            f"tokens, which can be neither cut nor stretched to {others[0]}; use {length} alone"
        )
        yield _has_states_alone, sentence
        yield _has_states, f"{sentence}, or prefix.kinds: [attention]"


def _has_states_alone(kinds: tuple[str, ...]) -> bool:
    return "attention" not in kinds


def _has_states(kinds: tuple[str, ...]) -> bool:
    return "state" in kinds
