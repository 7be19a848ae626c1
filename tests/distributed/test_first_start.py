"""What a training starts from, and the rates that follow from it, are the first process's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import load_params
from pipeline.config.train import TrainParams
from pipeline.distributed.ranks import Ranks
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.stages import baseline_start, train, train_baseline
from pipeline.sweep.baselines import Baseline
from pipeline.training.training import Training
from tests.conftest import kv_of, tiny_model
from tests.distributed.trainings import examples, tensors_of
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    working_in,
    write_params,
)
from tests.hybrids import qwen3_next


@dataclass(frozen=True)
class Second(Ranks):
    """The second of two processes, whose first has `model`, and answers what `answer` says."""

    rank: int = 1
    size: int = 2
    model: PrefixModel | None = None
    answer: Callable[[Any], Any] = lambda value: value

    def from_first(self, value: Any) -> Any:
        return self.answer(value)

    @torch.no_grad()
    def copy_from_first(self, tensors: Any) -> None:
        if self.model is None:
            return
        theirs = [p for p in self.model.parameters() if p.requires_grad]
        for own, other in zip(tensors, [*theirs, *self.model.encoder.buffers()], strict=True):
            own.copy_(other)


def started(scale: float) -> PrefixModel:
    model = PrefixModel(tiny_model(), PrefixConfig(3, num_frozen_tokens=1))
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 3, scale, draw))
    return model


def rates_of(model: PrefixModel, ranks: Ranks, **params: Any) -> list[float]:
    data = examples(2)
    training = Training(model, data, data, TrainParams(**params), 0, lambda *_: None, ranks=ranks)
    return [group["initial_lr"] for group in training.progress.optimizer.param_groups]


def test_relative_rates_are_in_proportion_to_the_firsts_start() -> None:
    first, second = started(0.5), started(0.52)
    expected = rates_of(started(0.5), Ranks(), relative_rates=True)
    assert rates_of(started(0.52), Ranks(), relative_rates=True) != expected
    assert rates_of(second, Second(model=first), relative_rates=True) == expected
    assert all(map(torch.equal, tensors_of(kv_of(second)), tensors_of(kv_of(first))))


def test_states_train_at_the_firsts_rate() -> None:
    """It follows the frozen model's own states, which each process computes."""
    first = Second(answer=lambda rate: rate * 2)
    own, told = (rates_of(PrefixModel(qwen3_next(), PrefixConfig(2)), r) for r in (Ranks(), first))
    assert told == [own[0], 2 * own[1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "inputs").mkdir()
    make_training_folder(folder)
    params = faulty_params(Path("inputs/model"))
    both = {"type": "prefix_and_lora", "rank": 2, "initialization": "corpus", "length": 2}
    write_params(folder, params | {"trained_baselines": {"both": both}})
    return folder


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    with working_in(made):
        yield made


@pytest.mark.parametrize("of", ["variant", "baseline"])
def test_a_start_is_what_the_first_chose(
    of: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a start that validation chooses another process may round to another chunk."""
    params, trained = load_params(), list[PrefixModel]()
    offered: list[KVPrefix] = []

    def another(own: KVPrefix) -> KVPrefix:
        offered.append(own)
        return KVPrefix(tuple(k + 1 for k in own.keys), own.values, {"begins_text": "true"})

    stage = train if of == "variant" else train_baseline
    monkeypatch.setattr(stage, "train_prefix", lambda model, *_, **__: trained.append(model))
    if of == "variant":
        train.run(params, VARIANT, Second(answer=another))
    else:
        baseline_start.run(params, "both")
        train_baseline.run(params, Baseline("both", seed=0), Second(answer=another))
    (model,), (own,) = trained, offered
    assert model.begins_text
    for key, mine in zip(kv_of(model).keys, own.keys, strict=True):
        torch.testing.assert_close(key, mine + 1)
