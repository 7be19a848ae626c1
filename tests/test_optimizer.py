"""The learning rate's schedule is transformers' own, and comes without importing its trainer."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.train import TrainParams
from pipeline.training.optimizer import build_optimizer
from tests.conftest import ROOT

NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(warmup=st.integers(0, 8), steps=st.integers(1, 12))
def test_rates_are_those_of_transformers(name: Any, warmup: int, steps: int) -> None:
    from transformers import get_scheduler

    params = TrainParams(max_steps=steps, epochs=None, schedule=name, warmup_steps=warmup)
    optimizer, ours = build_optimizer([torch.nn.Parameter(torch.zeros(1))], params, steps)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=params.peak_rate)
    theirs = get_scheduler(NAMES[name], other, num_warmup_steps=warmup, num_training_steps=steps)
    for _ in range(steps + 2):
        assert ours.get_last_lr() == theirs.get_last_lr()
        for each in (optimizer, other, ours, theirs):
            each.step()


@pytest.mark.slow
def test_training_does_without_peft() -> None:
    code = (
        "import sys, torch\n"
        "from pipeline.config.train import TrainParams\n"
        "from pipeline.stages import train\n"
        "from pipeline.training.optimizer import build_optimizer\n"
        "build_optimizer([torch.nn.Parameter(torch.zeros(1))], TrainParams(epochs=1), 3)\n"
        "print([name for name in ('peft', 'transformers.trainer_utils') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
