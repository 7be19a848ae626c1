"""No path of the pipeline makes float64 on a device that has none: Apple's MPS, taken by `auto`.

And the option `--device` moves what tests make, and nothing that the library makes.
"""

from collections.abc import Iterator

import pytest
import torch
from datasets import Dataset

from pipeline.config.evaluate import EvaluateParams
from pipeline.config.train import TrainParams
from pipeline.data.batching import pad_rows
from pipeline.evaluation.classes import measure_classes
from pipeline.evaluation.generation import measure_examples
from pipeline.loss.for_model import is_classifier
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens, random_kv_prefix
from pipeline.prefix.starts.attended import most_attended
from pipeline.prefix.starts.matching import attention_matching
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from tests.conftest import kv_of, tiny_model, tiny_tokenizer
from tests.devices import LikeMPS, OnDevice
from tests.faults.test_kills import examples_of
from tests.prefix import architectures, encoders

MODELS = {
    "packed": lambda: (tiny_model(head_dim=16), [7, 8, 1]),
    "padded": lambda: (architectures.build("bloom"), [7, 8, 1]),
    "an encoder-decoder": lambda: (encoders.build("t5"), [7, 8, 1]),
    "a classifier": lambda: (encoders.build("bert"), [2]),
    "of words": lambda: (encoders.build("bert", "ForTokenClassification"), [0, 2]),
}


@pytest.fixture
def like_mps() -> Iterator[None]:
    with LikeMPS():
        yield


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.usefixtures("like_mps")
def test_training_and_measuring(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    frozen, target = MODELS[kind]()
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=3))
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 3, 0.1, draw))
    split = examples_of(target)
    texts = {name: [""] * len(split) for name in ("id", "input")}
    params = TrainParams(epochs=None, max_steps=2, batch_size=4)
    folder = CheckpointFolder(tmp_path_factory.mktemp("mps") / "x", "digest", 1)
    for _ in range(2):
        train_prefix(model, split, split, params, 0, lambda step, metrics: None, folder)
    measured = EvaluateParams(splits=["test"], max_new_tokens=3)
    if is_classifier(model):
        table = Dataset.from_dict({**split.to_dict(), **texts, "references": [["a"]] * len(split)})
        losses = [row["loss"] for row in measure_classes(model.eval(), table, "test", 200)]
    else:
        outcomes = measure_examples(model.eval(), tiny_tokenizer(), split, measured, "test", 200)
        losses = [outcome.loss for outcome in outcomes]
    assert len(losses) == len(split)


@pytest.mark.usefixtures("like_mps")
def test_starts_that_are_chosen_by_attention() -> None:
    kv = kv_prefix_from_tokens(tiny_model(), list(range(4, 16)))
    model = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=12)).eval()
    model.load_kv_prefix(kv)
    assert len(most_attended(model, kv_of(model), 4, [[9, 8, 7], [5, 6]])) == 4
    assert len(attention_matching(model, kv_of(model), 4, [[9, 8, 7], [5, 6]])) == 4


@pytest.mark.usefixtures("like_mps")
def test_the_stand_in_refuses_what_mps_refuses() -> None:
    on_device = torch.ones(2)
    for refused in (
        lambda: on_device.double(),
        lambda: on_device.to(torch.float64),
        lambda: torch.sum(on_device, dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="doesn't support float64"):
            refused()
    assert on_device.cpu().double().sum() == 2
    assert torch.zeros(2, dtype=torch.float64).sum() == 0


def test_what_a_test_makes_lies_on_the_chosen_device() -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    draw = torch.Generator().manual_seed(0)
    with OnDevice(meta):
        assert torch.ones(2).device == meta
        assert torch.randint(4, 9, (2,), generator=draw).device == meta
        assert torch.tensor([1.0], device=cpu).device == cpu
        assert pad_rows([[1, 2], [3]], 0, cpu).device == cpu
        assert random_kv_prefix([((1, 2), (1, 2))], 3, 1.0, draw).keys[0].device == cpu
    assert torch.ones(2).device == cpu
