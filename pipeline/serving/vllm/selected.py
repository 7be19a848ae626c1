"""The prefixes that a person names, with the frozen model's configuration and not its weights."""

from collections.abc import Mapping
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from pipeline.adapters.reading import read_named
from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models.adapter import read_adapter
from pipeline.models.frozen import not_a_model
from pipeline.models.quantization import read_quantization
from pipeline.prefix import KVPrefix
from pipeline.serving.vllm.refusals import refuse_unservable
from pipeline.workspace import paths


def read_prefixes(params: Params, chosen: Mapping[str, str | Path]) -> dict[str, KVPrefix]:
    """The prefixes that `choose_prefix` returned, by the same names.

    Raises PipelineError for one that is not trained yet, or that vLLM cannot serve.
    """
    config = model_config()
    if read_quantization(paths.MODEL) is not None:
        raise PipelineError(
            "vllm: model.quantization quantizes the frozen model as this project loads it, which "
            "vLLM does not do alike; train on a model that is quantized already, or on a whole one"
        )
    if not chosen:
        raise PipelineError("vllm: name at least one prefix")
    found: dict[str, KVPrefix] = {}
    for name, which in chosen.items():
        if Path(name).name != name:
            raise PipelineError(f"vllm: '{name}' cannot be the name of a file; choose another")
        found[name] = _read(params, which)
        refuse_unservable(name, found[name], config, params.prefix.prefix_always_visible)
    return found


def model_config() -> PreTrainedConfig:
    """The frozen model's configuration. Raises PipelineError where there is no model yet."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            paths.MODEL, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise not_a_model(paths.MODEL, error) from error
    return config


def served_dtype(params: Params, config: PreTrainedConfig) -> str:
    """What the evaluation computes in: vLLM's own `auto` makes half precision of float32."""
    if params.evaluate.dtype != "auto":
        return params.evaluate.dtype
    own = config.dtype or config.get_text_config().dtype
    return str(own or "float32").removeprefix("torch.")


def _read(params: Params, chosen: str | Path) -> KVPrefix:
    if isinstance(chosen, str):
        return read_named(params, chosen)
    return read_adapter(chosen) if chosen.is_dir() else KVPrefix.load(chosen)
