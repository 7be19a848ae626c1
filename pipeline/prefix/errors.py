"""The error of the prefix method."""


class PrefixError(ValueError):
    """A prefix, a text or a configuration that cannot be used, and what would be right."""


def first_line(error: BaseException) -> str:
    """What a model's or a library's error says, for a sentence of ours; its class if nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
