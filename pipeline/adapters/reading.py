"""Reading an adapter folder without the frozen model at hand."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.records import read_json

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


def read_adapter(folder: Path) -> "KVPrefix":
    """The prefix of a PEFT adapter folder, its shapes as its own configuration gives them.

    Raises PrefixError when there is none.
    """
    from pipeline.prefix.files.peft_format import CONFIG, load_adapter

    config = read_json(folder / CONFIG)
    heads = int(config["num_attention_heads"])
    shape = (heads, int(config["token_dim"]) // heads)
    return load_adapter(folder, [(shape, shape)] * int(config["num_layers"]))


def adapter_storage(folder: Path, kv: "KVPrefix") -> dict[str, int]:
    """What an adapter costs, as a variant's training records it."""
    from pipeline.prefix.files.peft_format import WEIGHTS

    numbers = sum(tensor.numel() for tensor in (*kv.keys, *kv.values))
    return {
        "trainable_parameters": numbers,
        "stored_bytes": (folder / WEIGHTS).stat().st_size,
    }
