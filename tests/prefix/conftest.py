"""The laws run on the device that `--device` names."""

from collections.abc import Iterator

import pytest
import torch

from tests import devices


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    device = torch.device(request.config.getoption("--device"))
    if device.type == "mps" and request.node.get_closest_marker("float64"):
        pytest.skip("what it compares with is float64, which MPS has not")
    if device.type != "cpu" and request.node.get_closest_marker("of_the_cpu"):
        pytest.skip("it is of a CPU's kernel, or of stand-ins for a card's; see benchmarks.cuda")
    monkeypatch.setattr(devices, "chosen", device)
    if device.type == "cpu":
        yield
        return
    with devices.OnDevice(device):
        yield
