"""Reading an adapter folder without the frozen model at hand."""

from pathlib import Path

from pipeline.prefix import KVPrefix
from pipeline.prefix.files.peft_format import CONFIG, load_adapter
from pipeline.storage.records import read_json


def read_adapter(folder: Path) -> KVPrefix:
    """The prefix of a PEFT adapter folder, its shapes as its own configuration gives them.

    Raises PrefixError when there is none.
    """
    config = read_json(folder / CONFIG)
    heads = int(config["num_attention_heads"])
    shape = (heads, int(config["token_dim"]) // heads)
    return load_adapter(folder, [(shape, shape)] * int(config["num_layers"]))
