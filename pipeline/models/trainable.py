"""The prefix to train, as params ask for it."""

from pipeline.config.prefix import PrefixParams
from pipeline.prefix import PrefixConfig


def prefix_config(params: PrefixParams, length: int, new: tuple[str, ...]) -> PrefixConfig:
    """The prefix that params ask for; `new` are the modules to train where they name none."""
    named = params.model_dump()
    modules = named.pop("modules_to_save")
    parts = named.pop("parts")
    # Of a training, not of the prefix.
    for key in ("distractors", "token_dropout", "leave_one_out"):
        named.pop(key)
    return PrefixConfig(
        num_virtual_tokens=length,
        parts=None if parts is None else tuple(parts),
        modules_to_save=new if modules is None else tuple(modules),
        **named,
    )


def start_config(params: PrefixParams, length: int) -> PrefixConfig:
    """The prefix that such a training begins with, of any length, as it is measured untrained."""
    any_length = params.model_copy(update={"num_frozen_tokens": 0})
    return prefix_config(any_length, length, ()).untrained(length)
