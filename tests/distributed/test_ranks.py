"""What processes share out among themselves, and the devices that they ask for."""

import os
import signal
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pipeline.cli.main import main
from pipeline.cli.processes import refuse_processes
from pipeline.config import load_params
from pipeline.distributed.devices import refuse_shared_device, refuse_spread_model
from pipeline.distributed.launching import is_started, processes_of, run_in_processes
from pipeline.distributed.ranks import ALONE, Ranks
from pipeline.errors import PipelineError
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.training.validation import target_loss_of
from tests.conftest import ROOT, tiny_model
from tests.distributed.trainings import examples


def _failed(code: int) -> ChildFailedError:
    """What torch's launcher raises where the second process ends with a code."""
    return ChildFailedError("pipeline", {1: ProcessFailure(1, 7, code, "<N/A>")})


@given(st.lists(st.integers(1, 1000), max_size=20), st.integers(1, 8))
def test_shares_are_all_items_once_and_even(sizes: list[int], size: int) -> None:
    items = list(range(len(sizes)))
    shares = Ranks(0, size).shares(items, sizes)
    assert shares == Ranks(size - 1, size).shares(items, sizes)
    assert sorted(item for share in shares for item in share) == items
    assert all(share == sorted(share) for share in shares)
    loads = [sum(sizes[item] for item in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_one_process_takes_what_there_is() -> None:
    assert ALONE.shares("abc", [1, 3, 2]) == [["a", "b", "c"]]
    assert ALONE.sum(0.5) == 0.5
    assert ALONE.largest(2) == 2
    assert ALONE.from_first(None) is None


@pytest.mark.parametrize(("gpus", "processes"), [(0, 1), (1, 1), (8, 8)])
def test_auto_is_one_process_a_gpu(gpus: int, processes: int) -> None:
    with mock.patch.object(torch.cuda, "device_count", return_value=gpus):
        assert processes_of("auto") == processes
    assert processes_of(3) == 3


def test_fewer_examples_than_processes_are_measured_by_some() -> None:
    model = PrefixModel(tiny_model(), PrefixConfig(2)).eval()
    one = examples(1)
    losses = [target_loss_of(model, one, 4096, ranks=Ranks(rank, 2)) for rank in range(2)]
    assert losses == [target_loss_of(model, one, 4096), 0.0]
    assert losses[0] > 0


_LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_torchrun_is_refused_once_for_commands_of_one_process() -> None:
    """Each process would write the same files."""
    for command in ("evaluate", "sweep", "check"):
        told = CliRunner().invoke(main, [command], env=_LAUNCHED)
        assert told.exit_code == 1
        assert told.output.startswith(f"error: {command} is one process, and this one was started")
        other = CliRunner().invoke(main, [command], env={**_LAUNCHED, "RANK": "1"})
        assert (other.exit_code, other.output) == (0, "")
    single = CliRunner().invoke(main, ["check", "--help"], env={**_LAUNCHED, "WORLD_SIZE": "1"})
    assert single.exit_code == 0
    with mock.patch.dict(os.environ, _LAUNCHED):
        refuse_processes("train")
        refuse_processes("train_baseline")


def test_variants_together_do_not_go_with_several_processes_of_one() -> None:
    params = load_params(ROOT / "params.yaml")
    hardware = params.hardware.model_copy(update={"processes": 2})
    two = params.model_copy(update={"hardware": hardware})
    with mock.patch("pipeline.cli.sweep.load_params", return_value=two):
        told = CliRunner().invoke(main, ["sweep", "--together", "3"])
    assert told.exit_code == 2
    assert "hardware.processes: 2 one variant in several" in told.output


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (_failed(-9), r"process 1 of 2 was killed \(SIGKILL\), and the others were stopped"),
        (_failed(3), "3"),
        (SignalException("stopped", signal.SIGTERM), "143"),
    ],
)
def test_how_processes_end_is_told(raised: Exception, said: str) -> None:
    """A real one is killed by `make test-all`."""
    launched = mock.Mock(side_effect=raised)
    with (
        mock.patch("torch.distributed.launcher.api.elastic_launch", return_value=launched) as how,
        pytest.raises((PipelineError, SystemExit), match=said),
    ):
        run_in_processes(2, ["train", "--seed", "0"])
    assert launched.call_args.args == ("-m", "pipeline", "train", "--seed", "0")
    assert how.call_args.args[0].nproc_per_node == 2


def test_a_process_of_torchrun_starts_no_others() -> None:
    with mock.patch.dict(os.environ, _LAUNCHED):
        assert is_started()
        del os.environ["MASTER_PORT"]
        # Others set a RANK too.
        assert not is_started()


@pytest.mark.parametrize(
    ("device", "gpus", "said"),
    [
        ("cuda:1", 8, "train.device: cuda:1 is one device for 4 processes"),
        ("mps", 0, "train.device: mps is one device for 4 processes"),
        ("auto", 2, "this machine has 2 GPUs for 4 processes"),
        ("cuda", 4, None),
        ("auto", 0, None),
        ("cpu", 2, None),
    ],
)
def test_each_process_needs_a_device(device: str, gpus: int, said: str | None) -> None:
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=gpus > 0),
        mock.patch.object(torch.cuda, "device_count", return_value=gpus),
        mock.patch.object(torch.backends.mps, "is_available", return_value=False),
        mock.patch.dict(os.environ, {"LOCAL_WORLD_SIZE": "4"}),
    ):
        refuse_shared_device(device, ALONE)
        if said is None:
            refuse_shared_device(device, Ranks(3, 4))
        else:
            with pytest.raises(PipelineError, match=said):
                refuse_shared_device(device, Ranks(3, 4))


def test_processes_do_not_spread_one_model_each() -> None:
    refuse_spread_model(None, Ranks(1, 2))
    refuse_spread_model("auto", ALONE)
    with pytest.raises(
        PipelineError, match=r"model\.device_map: auto .* has 2 processes; set it to"
    ):
        refuse_spread_model("auto", Ranks(1, 2))
