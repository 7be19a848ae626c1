"""The error of the prefix method."""


class PrefixError(ValueError):
    """A prefix, a text or a configuration that cannot be used, and what would be right."""
