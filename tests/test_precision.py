"""`dtype: auto` is as stored, and float32 on a CPU that has no instructions for that."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from pipeline.models import precision
from pipeline.models.frozen import load_frozen_model
from pipeline.schema.compute import Compute, Dtype
from tests.conftest import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose weights are bfloat16."""
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


def loaded(folder: Path, dtype: Dtype = "auto") -> torch.dtype:
    return load_frozen_model(folder, Compute(device="cpu", dtype=dtype)).dtype


@pytest.mark.parametrize(
    ("has_instructions", "dtype"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_auto_goes_by_what_the_cpu_multiplies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_instructions: bool, dtype: torch.dtype
) -> None:
    operators = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: has_instructions,
        _is_mkldnn_fp16_supported=lambda: not has_instructions,
    )
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    assert loaded(folder) == dtype
    assert loaded(folder, "bfloat16") == torch.bfloat16


def test_auto_keeps_weights_whose_float32_takes_too_much_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies", lambda dtype: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=100_000))
    assert loaded(folder) == torch.bfloat16


def test_auto_of_a_model_on_several_devices_is_as_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies", lambda dtype: False)
    model = load_frozen_model(folder, Compute(), {"": "cpu"})
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_every_cpu_multiplies_needs_no_question(dtype: torch.dtype) -> None:
    assert precision.multiplies(dtype)
