"""Loading the frozen model's tokenizer, and the tokens that end a text."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.models.frozen import not_a_model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer; a missing padding token is the end-of-sequence token (it is always masked).

    Raises PipelineError when the folder does not hold one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises the plain class for a damaged file
        raise not_a_model(folder, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a generated text: the model's own and the tokenizer's."""
    generation = model.generation_config
    ends = None if generation is None else generation.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {int(end) for end in [*listed, tokenizer.eos_token_id] if end is not None}


def without_end(tokens: list[int], ends: set[int]) -> list[int]:
    """Generated tokens without the one that ended them; not every tokenizer calls it special."""
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens
