"""The dtype that `dtype: auto` stands for: as weights are stored, where the device computes so."""

from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.schema.compute import Compute

# Of the machine's memory, for the weights in float32.
_SHARE_OF_MEMORY = 0.5


def resolve_dtype(
    folder: Path, config: Any, compute: Compute, device: torch.device | None
) -> torch.dtype:
    """The dtype in which the model of a folder computes on a device; None for several.

    `auto` is that of its weights. On a CPU without instructions for products of bfloat16 or
    float16 torch takes many times as long for them as for float32 (pytorch issue 146508), so that
    there `auto` is float32 where the weights take no more than half of the machine's memory.
    """
    if compute.dtype != "auto":
        chosen: torch.dtype = getattr(torch, compute.dtype)
        return chosen
    stored: torch.dtype = config.dtype or config.get_text_config().dtype or torch.float32
    if device is None or device.type != "cpu" or multiplies(stored):
        return stored
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    grown = size * torch.float32.itemsize / stored.itemsize
    fits = grown <= _SHARE_OF_MEMORY * psutil.virtual_memory().total
    return torch.float32 if fits else stored


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products in a dtype of 16 bits, by oneDNN's word."""
    if not torch.backends.mkldnn.is_available():
        return False
    asked = torch.ops.mkldnn
    known = {
        torch.bfloat16: asked._is_mkldnn_bf16_supported,
        torch.float16: asked._is_mkldnn_fp16_supported,
    }
    return dtype not in known or bool(known[dtype]())
