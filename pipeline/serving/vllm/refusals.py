"""What vLLM cannot serve as it was trained: refused with the reason, before anything is written."""

from transformers import PreTrainedConfig

from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix
from pipeline.prefix.architecture.reach import window_of
from pipeline.prefix.caches import chooses, recurs


def refuse_unservable(
    name: str, kv: KVPrefix, config: PreTrainedConfig, prefix_always_visible: bool
) -> None:
    """Raise PipelineError where vLLM would answer otherwise than the prefix was trained to."""
    if reason := _why_not(kv, config, prefix_always_visible):
        raise PipelineError(
            f"vllm: '{name}' cannot be served by vLLM: {reason}; use another engine, or "
            "`python -m pipeline generate`"
        )


def _why_not(kv: KVPrefix, config: PreTrainedConfig, prefix_always_visible: bool) -> str | None:
    text = config.get_text_config()
    if config.is_encoder_decoder or kv.parts is not None:
        return (
            "it is of an encoder-decoder or an encoder, and vLLM gives KV connectors to decoders "
            "alone"
        )
    if kv.modules:
        return "weights were trained beside it (a classifier's head), which vLLM has no place for"
    if kv.states or recurs(config):
        return (
            "its model has layers that recur or choose among keys, and vLLM's connectors fill "
            "attention layers with keys and values alone"
        )
    if chooses(config):
        return "its model chooses among keys by index keys, which vLLM keeps in a cache of its own"
    if kv.layers is not None:
        return (
            f"it is for layers {list(kv.layers)} alone, and vLLM counts its tokens as computed in "
            "every layer"
        )
    if prefix_always_visible and window_of(config) is not None:
        return (
            "it was trained with prefix.prefix_always_visible, and vLLM's sliding windows hide "
            "what is far away"
        )
    if any(key != value for key, value in kv.shapes) or getattr(text, "kv_lora_rank", None):
        return (
            "its model has latent attention (MLA), of which vLLM keeps one compressed vector a "
            "token in place of keys and values"
        )
    return None
