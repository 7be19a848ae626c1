"""Which GPUs each worker of this machine gets; of a machine that has them by its word alone."""

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.orchestration.local_pool import visible_gpus


@pytest.mark.parametrize(
    ("visible", "count", "each", "gpus"),
    [
        ("", 0, 1, []),
        ("-1", 0, 1, []),
        ("0", 0, 1, []),
        ("2,3", 2, 1, ["2", "3"]),
        ("GPU-a, GPU-b", 2, 1, ["GPU-a", "GPU-b"]),
        ("MIG-a,MIG-b", 1, 1, ["MIG-a", "MIG-b"]),
        ("MIG-a,MIG-b", 0, 1, []),
        # CUDA sees none behind one that is not there.
        ("1,9,0", 1, 1, ["1"]),
        ("0,1,2,3,4", 5, 2, ["0,1", "2,3"]),
    ],
)
def test_the_gpus_of_workers(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, each: int, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus(each) == gpus


def test_fewer_gpus_than_a_training_has_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PipelineError, match=r"hardware.processes: 2 .* there is 1; lower it"):
        visible_gpus(2)
