"""Prefix tuning, usable without the pipeline.

A prefix is, for each attention layer of a frozen model, a few key and value vectors that every
position attends to, as if they were tokens before the input (Li and Liang 2021).
"""

from pipeline.prefix.accompanied import AccompaniedPrefix
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.packed.running import Beginning, RunningRows, Stem
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.prompted import PromptEncoder, prompted_model
from pipeline.prefix.starts.attended import most_attended
from pipeline.prefix.starts.averaged import mean_kv_prefix
from pipeline.prefix.starts.drawn import kv_prefix_from_words, random_kv_prefix, zero_kv_prefix
from pipeline.prefix.starts.from_source import kv_prefix_from_source, kv_prefix_from_source_tokens
from pipeline.prefix.starts.from_text import (
    kv_prefix_from_cache,
    kv_prefix_from_text,
    kv_prefix_from_tokens,
)
from pipeline.prefix.starts.matching import attention_matching
from pipeline.prefix.starts.reshaped import spaced_chunks, stretched_kv_prefix
from pipeline.prefix.starts.statistics import kv_prefix_from_statistics
from pipeline.prefix.starts.untrained import untrained_loss
from pipeline.prefix.together import packed_logits_together

__all__ = [
    "AccompaniedPrefix",
    "Beginning",
    "KVPrefix",
    "PrefixConfig",
    "PrefixError",
    "PrefixModel",
    "PromptEncoder",
    "RunningRows",
    "Stem",
    "attention_matching",
    "kv_prefix_from_cache",
    "kv_prefix_from_source",
    "kv_prefix_from_source_tokens",
    "kv_prefix_from_statistics",
    "kv_prefix_from_text",
    "kv_prefix_from_tokens",
    "kv_prefix_from_words",
    "mean_kv_prefix",
    "most_attended",
    "packed_logits_together",
    "prompted_model",
    "random_kv_prefix",
    "spaced_chunks",
    "stretched_kv_prefix",
    "untrained_loss",
    "zero_kv_prefix",
]
