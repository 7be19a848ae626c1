"""A tiny configuration of any class of transformers, from the names of its fields.

`settings.yaml` has a size for each name, and what a few types need beside. Lists with one entry a
layer (kinds of attention, of MLP, which layers rotate) keep the kinds that the class itself gives
them by default, one after another. A type that nobody has heard of is made so too.
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from ruamel.yaml import YAML
from transformers import CONFIG_MAPPING, PreTrainedConfig

SETTINGS = Path(__file__).with_name("settings.yaml")
IMAGE_TOKEN = 90
ORDINARY = range(3, 80)
"""Token ids that no configuration made here gives a meaning."""

_SPECIAL = re.compile(r"(?<!pad)(?<!bos)(?<!eos)_token_(id|index)$")
# More kinds than this in a list with an entry for each layer are numbers, not kinds.
_KINDS = 4


@cache
def settings() -> dict[str, Any]:
    """The sections of `settings.yaml`."""
    read: dict[str, Any] = YAML(typ="safe").load(SETTINGS.read_text(encoding="utf-8"))
    return read


def tiny_config(model_type: str, changes: dict[str, Any] | None = None) -> PreTrainedConfig:
    """A configuration of `model_type` with the sizes of `settings.yaml`, and with `changes`.

    In `changes` a dictionary under the name of a part (`text_config`) holds changes of that part,
    whose type `model_type` may exchange. Raises whatever the class raises for values that it
    refuses.
    """
    return _tiny(CONFIG_MAPPING[model_type], changes or {}, "text")


def _tiny(config_class: Any, changes: dict[str, Any], sort: str) -> PreTrainedConfig:
    """`sort` is `text` for what reads tokens, `tower` for what reads images or sounds."""
    known = {field.name: field.type for field in fields(config_class)}
    given = {**settings()["types"].get(config_class.model_type, {}), **changes}
    given.pop("model_type", None)
    sizes = _sizes(known, sort)
    # Its own rules for lists and parts show at its own depth.
    deep = {name: size for name, size in sizes.items() if name not in settings()["depths"]}
    trial = _tried(config_class, deep)
    reads = None if trial is None else _text_part(trial)
    parts: dict[str, PreTrainedConfig | None] = {}
    for name, spec in config_class.sub_configs_defaults.items():
        changed, own = given.pop(name, {}), getattr(trial, name, None)
        if changed is None or (own is None and not changed):
            parts |= {name: None} if changed is None else {}
            continue
        other = changed.get("model_type")
        own_class = CONFIG_MAPPING[spec.model_type] if own is None else type(own)
        reads_text = own is not None and (own is reads or reads in _parts(own))
        part_class = CONFIG_MAPPING[other] if other else own_class
        parts[name] = _tiny(part_class, changed, "text" if reads_text else "tower")
    depth = next((sizes[name] for name in settings()["depths"] if name in sizes), None)
    depth = given.get("num_hidden_layers", depth)
    lists = {} if trial is None or depth is None else _per_layer(trial, depth)
    config: PreTrainedConfig = config_class(
        **{**sizes, **_special_tokens(known), **lists, **_rotary(trial, sizes), **given, **parts}
    )
    return config


def _sizes(known: dict[str, Any], sort: str) -> dict[str, Any]:
    """The sizes of the fields that a class has, and of those that go with some of its others."""
    sizes = dict(settings()[sort])
    for field, beside in settings()["beside"].items():
        sizes |= beside if field in known else {}
    lists = [name for name in sizes.keys() & known if _is_list(known[name])]
    sizes |= {name: [sizes[name]] * 2 for name in lists if isinstance(sizes[name], int)}
    return {name: size for name, size in sizes.items() if name in known}


def _is_list(annotation: Any) -> bool:
    """Whether a field takes a list of numbers, and no number."""
    kinds = get_args(annotation) or (annotation,)
    return int not in kinds and any(get_origin(kind) in (list, tuple) for kind in kinds)


def _tried(config_class: Any, sizes: dict[str, Any]) -> PreTrainedConfig | None:
    for values in (sizes, {}):
        try:
            config: PreTrainedConfig = config_class(**values)
        except Exception:  # a class refuses in any way it likes; what it takes is found below
            continue
        return config
    return None


def _text_part(config: PreTrainedConfig) -> PreTrainedConfig | None:
    try:
        return config.get_text_config()
    except ValueError:  # it has several (MusicGen)
        return None


def _parts(config: PreTrainedConfig) -> list[Any]:
    return [getattr(config, name, None) for name in type(config).sub_configs_defaults]


def _per_layer(config: PreTrainedConfig, depth: int) -> dict[str, list[Any]]:
    """Lists as long as the layers are, cut to `depth` with their kinds taking turns."""
    layers = getattr(config, "num_hidden_layers", None)
    found = {}
    for name, value in vars(config).items():
        if isinstance(value, list | tuple) and len(value) == layers and not name.startswith("_"):
            kinds = [kind for at, kind in enumerate(value) if kind not in value[:at]]
            if kinds == ["full_attention"] and getattr(config, "sliding_window", None):
                kinds = ["sliding_attention", "full_attention"]
            if len(kinds) <= _KINDS:
                found[name] = [kinds[layer % len(kinds)] for layer in range(depth)]
    return found


def _rotary(config: PreTrainedConfig | None, sizes: dict[str, Any]) -> dict[str, Any]:
    """Positions in three dimensions (M-RoPE), whose shares have to make up a tiny head."""
    if "mrope_section" not in getattr(config, "ignore_keys_at_rope_validation", ()):
        return {}
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if "rope_theta" not in rope:
        return {}
    half = int(sizes.get("head_dim", 8) * rope.get("partial_rotary_factor", 1.0)) // 2
    return {
        "rope_parameters": {
            **rope,
            "mrope_section": [half - half // 3 - half // 4, half // 3, half // 4],
        }
    }


def _special_tokens(known: Iterable[str]) -> dict[str, int]:
    """Ids at the end of the vocabulary for tokens that stand for images, sounds and the like."""
    names = sorted(name for name in known if _SPECIAL.search(name))
    others = (token for token in range(ORDINARY.stop, 97) if token != IMAGE_TOKEN)
    return {name: IMAGE_TOKEN if name.startswith("image_token") else next(others) for name in names}
