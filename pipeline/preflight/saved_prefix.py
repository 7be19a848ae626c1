"""What the header of a prefix file says: neither torch nor a model is needed for it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def length_with_states(path: Path) -> int | None:
    """The virtual tokens of a prefix that holds states; None for any other, and for no such file.

    A file that cannot be read is the matter of the stage that reads it whole.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            names, about = list(file.keys()), (file.metadata() or {}).values()
            # Index keys have virtual tokens, and are cut with the keys beside them.
            has_states = any(n.startswith("states.") and not _has_tokens(n) for n in names)
            if not has_states:
                return None
            if "keys.0" in names:
                return int(file.get_slice("keys.0").get_shape()[1])
            return next((int(json.loads(text)["length"]) for text in about), None)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError):
        return None


def is_without_states(path: Path) -> bool:
    """Whether a prefix is known to hold keys and values alone, as PEFT's adapters do."""
    if path.is_dir():
        return (path / "adapter_config.json").is_file()
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return False
    return "keys.0" in names and not any(name.startswith("states.") for name in names)


def _has_tokens(name: str) -> bool:
    return name.split(".")[2].endswith("_keys")
