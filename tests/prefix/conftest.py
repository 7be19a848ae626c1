"""The laws run on the device that `--device` names."""

from collections.abc import Iterator

import pytest
import torch

from tests import devices


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    device = torch.device(request.config.getoption("--device"))
    if device.type == "mps" and request.path.name == "test_shared_prefix_attention.py":
        pytest.skip("what it compares with is float64, which MPS has not")
    of_a_cpu = (
        request.path.name == "test_shared_prefix_attention.py" and "kernel" in request.node.name
    )
    if device.type != "cpu" and of_a_cpu:
        pytest.skip("it is of a CPU's kernel, or of stand-ins for a card's; see benchmarks.cuda")
    monkeypatch.setattr(devices, "chosen", device)
    if device.type == "cpu":
        yield
        return
    with devices.OnDevice(device):
        yield
