"""Whether the model has a position for every token of prefix, text, input, target and answer.

Some models fail beyond their last position, others go on badly: both are refused beforehand.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.storage.records import read_text

Statistics = Mapping[str, Mapping[str, float]]
"""What the stage `tokenize` counted, a row a split."""

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
# These count positions from after the padding token's index.
_AFTER_PADDING = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("longformer", "data2vec-text", "ibert", "mpnet", "luke", "lilt", "markuplm"),
)
# Their positions are relative and have no end, whatever their configuration says.
_WITHOUT_END = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "bloom", "xlnet")


def context_of(config: Mapping[str, Any], part: str = "decoder") -> int | None:
    """How many positions a model's configuration has room for; None where it sets no end.

    As `pipeline.prefix.architecture.context` counts them: up to where a rotary embedding changes.
    `part` is the encoder or the decoder of a model that has both.
    """
    for own in (config.get(part), config.get("text_config")):
        if isinstance(own, dict) and (found := context_of(own, part)) is not None:
            return found
    kind = config.get("model_type")
    if kind in _WITHOUT_END or config.get("alibi"):
        return None
    keys = (f"max_{part}_position_embeddings", *_KEYS)
    found = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # Phi-3's first name for it was "su".
    if rope.get("rope_type", rope.get("type")) in ("longrope", "su"):
        switch = "original_max_position_embeddings"
        found = config.get(switch) or rope.get(switch) or found
    counts_after_padding = kind in _AFTER_PADDING or (
        # Others of ESM are rotary.
        kind == "esm" and config.get("position_embedding_type") == "absolute"
    )
    if found is not None and counts_after_padding:
        return int(found) - int(config.get("pad_token_id") or 0) - 1
    return found


def check_lengths(params: Params, config: Mapping[str, Any]) -> None:
    """Raise PipelineError for what leaves no room for any input, by the params alone."""
    for part in ("encoder", "decoder"):
        context = context_of(config, part)
        if context is None:
            continue
        before = _before(params, part)
        if before >= context:
            raise PipelineError(
                f"sweep.lengths: {before} virtual tokens leave no room in the model's context of "
                f"{context} positions; use shorter prefixes"
            )
        # An encoder-decoder counts input and target apart; task.max_length is of both together.
        apart = params.task.type == "seq2seq_lm"
        if not apart and before + params.task.max_length > context:
            raise PipelineError(
                f"task.max_length: {params.task.max_length} tokens after a prefix of {before} are "
                f"more than the model's context of {context} positions; lower task.max_length or "
                "sweep.lengths"
            )
        if params.kv_prefix.max_length > context:
            raise PipelineError(
                f"kv_prefix.max_length: {params.kv_prefix.max_length} is above the model's context "
                f"of {context} positions; lower it"
            )
        generated = params.evaluate.max_new_tokens
        # The last token is generated and never read; the first follows one token of input, or that
        # which a decoder starts from.
        if part == "decoder" and _generates(params) and before + generated > context:
            raise PipelineError(
                f"evaluate.max_new_tokens: {generated} tokens after a prefix of {before} are more "
                f"than the model's context of {context} positions; lower it or sweep.lengths"
            )

    _check_library(params, context_of(config))


def _check_library(params: Params, context: int | None) -> None:
    """Raise PipelineError where as many prefixes as stand together leave an example no room."""
    library = params.library
    if not library.documents or context is None:
        return
    counts = [library.distractors.count + 1, *(each.count for each in library.together.values())]
    length, longest = library.prefix.length, params.task.max_length
    if max(counts) * length + longest > context:
        raise PipelineError(
            f"library.prefix.length: {max(counts)} prefixes of {length} virtual tokens and "
            f"task.max_length: {longest} are more than the model's context of {context} positions; "
            "lower one of them, or how many stand together"
        )


def check_examples(
    params: Params,
    config: Mapping[str, Any],
    statistics: Statistics,
    tokens_in: Callable[[str], int],
) -> None:
    """Raise PipelineError when an example, or what is generated after it, has no room.

    Beside the prefixes of the sweep that is asked of baselines and teachers, which stand before
    inputs too. `tokens_in` counts a text's tokens.
    """
    if params.task.type == "seq2seq_lm":
        _check_sides(params, config, statistics)
        return
    longest = max(params.sweep.lengths)
    check_inputs_after(longest, "a prefix", "lower sweep.lengths", params, config, statistics)
    measured = {split: row for split, row in statistics.items() if split != "train"}
    for name, baseline in params.baselines.items():
        before, key = baseline.tokens_before(tokens_in), f"baselines.{name}"
        has_limit = "max_tokens" in type(baseline).model_fields
        remedy = f"lower {key}.max_tokens" if has_limit else f"leave out {key}"
        if before is not None:
            check_inputs_after(before, key, remedy, params, config, measured)
    _check_teachers(params, context_of(config), statistics, tokens_in)


def _check_teachers(
    params: Params,
    context: int | None,
    statistics: Statistics,
    tokens_in: Callable[[str], int],
) -> None:
    """Of teachers that read a text file; those of self-study see each row's chunk when they run."""
    for name, teacher in params.teachers.items():
        path = Path(teacher.path)
        if context is None or not path.is_file():
            continue
        before = tokens_in(read_text(path))
        for split in teacher.splits:
            if split not in statistics:
                raise PipelineError(
                    f"teachers.{name}.splits: the data have no split '{split}'; leave it out"
                )
            whole = longest_example(statistics[split], params)
            if before + whole > context:
                raise PipelineError(
                    f"teachers.{name}.path: the longest example of {split} has {whole} tokens, "
                    f"which after the {before} of the text are more than the model's context of "
                    f"{context} positions; shorten the text, or lower task.max_length"
                )


def longest_example(row: Mapping[str, float], params: Params) -> int:
    """The tokens of a split's longest example, or what they are at the most."""
    both = int(row["input_tokens_max"]) + int(row["target_tokens_max"])
    return int(row.get("tokens_max", min(both, params.task.max_length)))


def check_inputs_after(
    before: int,
    what: str,
    remedy: str,
    params: Params,
    config: Mapping[str, Any],
    statistics: Statistics,
) -> None:
    """Raise PipelineError when tokens before every input leave no room for an example of a decoder.

    Args:
        before: how many they are, in the context or as a prefix.
        what: what they are, for the sentence.
        remedy: how there can be fewer, for the sentence.
        params: the params.
        config: the model's config.json.
        statistics: of the tokenized splits that are read after them.
    """
    context = context_of(config)
    if context is None:
        return
    for split, row in statistics.items():
        read, whole = int(row["input_tokens_max"]), longest_example(row, params)
        if before + whole > context:
            raise PipelineError(
                f"task.max_length: the longest example of {split} has {whole} tokens, which after "
                f"the {before} of {what} are more than the model's context of {context} positions; "
                f"{remedy} or lower task.max_length"
            )
        generated = params.evaluate.max_new_tokens
        # The last token is generated and never read.
        if split == "train" or not _generates(params) or before + read + generated - 1 <= context:
            continue
        raise PipelineError(
            f"evaluate.max_new_tokens: {generated} tokens after the longest input of {split}, "
            f"which has {read}, and the {before} of {what} are more than the model's context of "
            f"{context} positions; lower it, {remedy} or lower task.max_length"
        )


def _check_sides(params: Params, config: Mapping[str, Any], statistics: Statistics) -> None:
    """Of an encoder-decoder, which counts the positions of input and target apart."""
    for split, row in statistics.items():
        for side, part in (("input", "encoder"), ("target", "decoder")):
            tokens, before = int(row[f"{side}_tokens_max"]), _before(params, part)
            context = context_of(config, part)
            if context is not None and tokens + before > context:
                raise PipelineError(
                    f"task.max_length: the longest {side} of {split} has {tokens} tokens, which "
                    f"after a prefix of {before} is more than the model's context of {context} "
                    "positions; lower task.max_length with task.too_long: truncate or drop, or "
                    "lower sweep.lengths"
                )


def _before(params: Params, part: str) -> int:
    """The most virtual tokens that shift the positions of a part; cross-attention has none."""
    parts = params.prefix.parts
    return max(params.sweep.lengths) if parts is None or part in parts else 0


def _generates(params: Params) -> bool:
    return not params.task.is_classification
