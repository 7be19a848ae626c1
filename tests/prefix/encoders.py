"""Tiny random encoder-decoders and encoders of every supported architecture, in float32."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests import devices

VOCABULARY = 120

T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": None,
    "scale_embedding": True,
}
BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
# One layer that slides, by two tokens to either side, and one that does not.
MODERNBERT = {
    **{key: value for key, value in BERT.items() if key != "type_vocab_size"},
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "cls_token_id": 2,
    "sep_token_id": 1,
}

ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", T5),
    "mt5": ("MT5", {**T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("Bart", BART),
    "mbart": ("MBart", BART),
    "pegasus": ("Pegasus", BART),
    "marian": ("Marian", BART),
    "blenderbot-small": ("BlenderbotSmall", BART),
    "longt5": ("LongT5", T5),
    "led": (
        "LED",
        {
            **{
                k: v
                for k, v in BART.items()
                if k not in ("max_position_embeddings", "scale_embedding")
            },
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
            "attention_window": 8,
        },
    ),
}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", {**BERT, "type_vocab_size": 2}),
    "distilbert": ("DistilBert", DISTILBERT),
    "albert": ("Albert", {**BERT, "embedding_size": 16}),
    "modernbert": ("ModernBert", MODERNBERT),
    "nomic_bert": ("NomicBert", BERT),
    "deberta-v2": (
        "DebertaV2",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
}
REFUSED = {
    "led": "computes its encoder's self-attention itself",
    "deberta-v2": "computes its encoder's self-attention itself",
    "longt5": "computes its encoder's self-attention itself",
}
"""Architectures whose attention, or that of one part, is out of a prefix's reach."""


def build(name: str, task: str = "", **changes: Any) -> PreTrainedModel:
    """A random model of the architecture, in evaluation mode.

    `task` is the end of the class's name: ForConditionalGeneration for encoder-decoders (MTModel
    for Marian), else ForSequenceClassification.
    """
    family, settings = (ENCODER_DECODERS | ENCODERS)[name]
    usual = "MTModel" if family == "Marian" else "ForConditionalGeneration"
    task = task or (usual if name in ENCODER_DECODERS else "ForSequenceClassification")
    config_class: Any = getattr(transformers, f"{family}Config")
    model_class: Any = getattr(transformers, f"{family}{task}")
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(config_class(**{**settings, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases start at zero, norms at one, tables small: numbers that would hide a mistake.
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
    return model.to(devices.chosen)
