"""A small random model of another's architecture, to try on it what the architecture allows.

Trying costs next to nothing, whatever the size of the model, and what it says does not depend on
weights, dtype or device.
"""

import copy
import re
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.prefix.architecture.reach import MASKED
from pipeline.prefix.errors import PrefixError, first_line

VOCABULARY = 64
_LAYERS, _WIDTH, _EXPERTS = 2, 64, 4
# More kinds than this in a list as long as the layers are numbers of layers, not kinds.
_KINDS = 6
_PARAMETERS = 100_000_000
# Names under which configurations of transformers keep sizes that no attention depends on.
_WIDTHS = re.compile(r"intermediate_size|ffn_dim|ffn_hidden_size|^d_ff$|^n_inner$")
_EXPERT_COUNTS = re.compile(r"^(moe_)?(num|n)_(local_|routed_)?experts$")
_CHOSEN_EXPERTS = re.compile(r"^(num_experts_per_to(k|ken)|num_experts_per_tok|moe_k|top_k)$")
_GROUPS = ("n_group", "topk_group")
_TOKENS = re.compile(r"_token_(id|index)s?$|_token$")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")


def miniature_of(model: PreTrainedModel, window: int | None = None) -> PreTrainedModel:
    """A model of the same class and configuration but for its sizes, in float32 on the CPU.

    Head sizes, grouping, position settings and windows are the model's own, and so is each kind of
    layer. Weights are drawn from a fixed seed, large enough that scores differ from key to key; in
    evaluation mode. With `window`, windows and chunks that masks are made of have at most about so
    many tokens, so that sequences which are quickly tried are longer.

    Raises:
        PrefixError: when its configuration cannot be made smaller.
    """
    # What transformers has to say of such settings it has said of the model itself.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = small_config(model.config)
        if window is not None:
            _narrow(config.get_text_config(), window)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in type(model)(config).parameters())
        if size > _PARAMETERS:
            raise ValueError(f"it keeps {size:,} parameters")
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            small: PreTrainedModel = type(model)(config).float().eval()
            draw_weights(small)
    except Exception as error:  # configurations and models raise whatever they like
        raise PrefixError(
            f"a small model of {type(model).__name__}'s configuration cannot be made "
            f"({first_line(error)})"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return small.requires_grad_(False)


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with fewer heads, layers, experts and tokens."""
    small = copy.deepcopy(config)
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    parts = {id(part): part for part in (small, *_parts(small), small.get_text_config())}
    for part in parts.values():
        _shrink(part)
    small._attn_implementation = "eager"
    return small


def _narrow(text: Any, window: int) -> None:
    # No two of one size, by which masks are told apart.
    for size, name in enumerate(MASKED, start=window):
        value = vars(text).get(name)
        if isinstance(value, int) and value > size:
            setattr(text, name, size)
        elif isinstance(value, list | tuple):
            setattr(text, name, [min(own, size) if own else own for own in value])


def _parts(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    named = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [part for part in named if isinstance(part, PreTrainedConfig)]


def _shrink(config: Any) -> None:
    settings = {name: value for name, value in vars(config).items() if not name.startswith("__")}
    _fewer_layers(config, settings)
    _fewer_heads(config)
    if isinstance(getattr(config, "vocab_size", None), int):
        config.vocab_size = VOCABULARY
    for name, value in settings.items():
        if name.startswith("vocab_size") and isinstance(value, int):
            setattr(config, name, VOCABULARY)
        elif _TOKENS.search(name):
            setattr(config, name, _known_tokens(value))
        elif not isinstance(value, int) or isinstance(value, bool):
            continue
        elif _WIDTHS.search(name):
            setattr(config, name, min(value, _WIDTH))
        elif _EXPERT_COUNTS.match(name):
            setattr(config, name, min(value, _EXPERTS))
        elif _CHOSEN_EXPERTS.match(name):
            setattr(config, name, min(value, 2))
        elif name in _GROUPS:
            setattr(config, name, 1)
    config.dtype = torch.float32


def _fewer_layers(config: Any, settings: dict[str, Any]) -> None:
    """The first layers, so many that each kind of layer is among them."""
    total = getattr(config, "num_hidden_layers", None)
    if not isinstance(total, int):
        return
    lists = {
        name: value
        for name, value in settings.items()
        if isinstance(value, list | tuple) and len(value) == total and _kinds(value) <= _KINDS
    }
    count = min(_LAYERS, total)
    while any(_kinds(value[:count]) < _kinds(value) for value in lists.values()):
        count += 1
    config.num_hidden_layers = count
    for name, value in lists.items():
        setattr(config, name, value[:count])


def _kinds(values: Any) -> int:
    return len(set(map(repr, values)))


def _fewer_heads(config: Any) -> None:
    heads, hidden = (getattr(config, n, None) for n in ("num_attention_heads", "hidden_size"))
    if not isinstance(heads, int) or not isinstance(hidden, int):
        return
    kv_name = next((n for n in _KV_HEADS if isinstance(getattr(config, n, None), int)), None)
    kv_heads = heads if kv_name is None else getattr(config, kv_name)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    few = min(kv_heads, 2)
    config.num_attention_heads = few if heads == kv_heads else 2 * few
    if kv_name is not None:
        setattr(config, kv_name, few)
    config.hidden_size = config.num_attention_heads * head_dim


def _known_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_known_tokens(token) for token in value]
    return min(value, VOCABULARY - 1) if isinstance(value, int) else value


@torch.no_grad()
def draw_weights(model: PreTrainedModel) -> None:
    """Draw weights that keep the size of states, and norms and biases that are not 1 and 0.

    As transformers draws them, a small layer changes next to nothing.
    """
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(noise * 0.1)
