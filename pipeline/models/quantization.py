"""A frozen model whose linear layers are quantized as it is loaded.

`fetch_model` writes how into the model's folder, beside weights that are whole: a configuration of
transformers' own there would say that the weights are quantized already.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import BitsAndBytesConfig, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.schema.quantization import BitsAndBytes, Quantization
from pipeline.storage.records import read_json

FILE = "quantization.json"

_GROUP = 32


def read_quantization(folder: Path) -> Quantization | None:
    """How the model in a folder is to be quantized; None for not at all.

    Raises PipelineError for a file that says no such thing.
    """
    if not (folder / FILE).exists():
        return None
    schemes: TypeAdapter[Quantization] = TypeAdapter(Quantization)
    try:
        return schemes.validate_python(read_json(folder / FILE))
    except ValidationError as error:
        raise PipelineError(
            f"{folder / FILE}: names no quantization; run `dvc repro --force fetch_model`"
        ) from error


def quantizing(scheme: Quantization, dtype: torch.dtype) -> Any:
    """What tells transformers to quantize a model that computes in `dtype`.

    Raises PipelineError when the library is not installed.
    """
    refuse_without(scheme.library)
    if isinstance(scheme, BitsAndBytes):
        if scheme.bits == 8:
            # Above a threshold, what an example's numbers are rounded to would depend on which
            # others share its batch.
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type=scheme.quant_type or "nf4",
            bnb_4bit_use_double_quant=scheme.double_quant,
        )
    return _of_torchao(scheme.bits, scheme.group_size or _GROUP)


def refuse_without(library: str) -> None:
    """Raise PipelineError for a library that is not installed, with the command."""
    if importlib.util.find_spec(library) is None:
        raise PipelineError(
            f"model.quantization: {library} is not installed; run `pip install '.[{library}]'`"
        )


def settle(model: PreTrainedModel) -> None:
    """Let a quantized model compute the same with a gradient as without one.

    On a CPU with AVX-512 BF16 bitsandbytes packs 4-bit weights anew in the first pass without a
    gradient, and no gradient passes through what is packed: a training would stand still after its
    first validation.
    """
    # It says of every layer, and at every call, that LLM.int8 rounds inputs to float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether some weights are kept in fewer bits than they compute in."""
    return bool(getattr(model, "is_quantized", False))


def _of_torchao(bits: int, group_size: int) -> Any:
    # It warns of kernels for other devices that it was built with.
    for name in ("torch.utils._pytree", "torchao", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    if bits == 8:
        return TorchAoConfig(Int8WeightOnlyConfig())
    # The formats that hold two weights in a byte have kernels without a gradient, on a GPU alone.
    return TorchAoConfig(IntxWeightOnlyConfig(torch.int4, PerGroup(group_size)))
