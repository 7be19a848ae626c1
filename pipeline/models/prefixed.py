"""The configuration of a prefix: as params ask for it, or as a saved one has it."""

from pipeline.config.prefix import PrefixParams
from pipeline.prefix import KVPrefix, PrefixConfig


def prefix_config(params: PrefixParams, length: int, new: tuple[str, ...]) -> PrefixConfig:
    """The prefix that params ask for; `new` are the modules to train where they name none."""
    named = params.model_dump()
    modules = named.pop("modules_to_save")
    parts = named.pop("parts")
    return PrefixConfig(
        num_virtual_tokens=length,
        parts=None if parts is None else tuple(parts),
        modules_to_save=new if modules is None else tuple(modules),
        **named,
    )


def config_of(kv: KVPrefix, prefix_always_visible: bool = False) -> PrefixConfig:
    """The configuration that takes a saved prefix as it is, with the modules beside it."""
    return PrefixConfig(
        num_virtual_tokens=len(kv),
        layers=kv.layers,
        prefix_always_visible=prefix_always_visible,
        parts=None if kv.parts is None else tuple(dict.fromkeys(kv.parts)),
        modules_to_save=tuple(dict.fromkeys(n.rpartition(".")[0] for n in sorted(kv.modules))),
    )
