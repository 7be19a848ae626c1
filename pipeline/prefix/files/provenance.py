"""What a prefix was made with, kept in its file as metadata."""

import hashlib
import json
import warnings
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from pipeline.prefix.kv import KVPrefix

# Entries of a configuration that say how a model was saved or is run, not what it computes.
_INCIDENTAL = (
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    # Of the head, which no prefix depends on.
    *("architectures", "id2label", "label2id", "num_labels", "problem_type", "pad_token_id"),
)


def provenance(model: PreTrainedModel) -> dict[str, str]:
    """`model` (its Hub name or folder's name), `config_sha256` and `dtype` of a frozen model."""
    name = model.config._name_or_path or model.config.model_type
    return {
        "model": Path(name).name if Path(name).exists() else name,
        "config_sha256": _config_sha256(model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def warn_of_another_model(kv: KVPrefix, model: PreTrainedModel) -> None:
    """Warn when a prefix that fits by its shapes says that it was made with another model."""
    made_with = kv.metadata.get("config_sha256")
    if made_with is not None and made_with != _config_sha256(model):
        warnings.warn(
            f"the prefix was made with '{kv.metadata.get('model')}', whose configuration differs "
            "from this model's though the shapes agree; it may do nothing useful here",
            stacklevel=3,
        )


def _config_sha256(model: PreTrainedModel) -> str:
    text = getattr(model.config, "text_config", None)
    # Of a multimodal model the part that a prefix is for, whether the whole is loaded or it alone.
    config = text if isinstance(text, PreTrainedConfig) else model.config
    entries = {k: v for k, v in config.to_dict().items() if k not in _INCIDENTAL}
    if isinstance(quantized := entries.get("quantization_config"), dict):
        # What its linear layers compute in, as `dtype` for those of any model.
        quantized.pop("bnb_4bit_compute_dtype", None)
    return hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode()).hexdigest()
