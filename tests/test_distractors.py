"""Other documents' prefixes stand beside the trained one in drawn steps, and are not trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel

from benchmarks.composition import Document, Measurement, Settings
from pipeline.config.prefix import DistractorParams
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError, StoppedError
from pipeline.loss import states
from pipeline.loss.causal import TargetLoss
from pipeline.loss.distillation import DistillationLoss
from pipeline.loss.output_layer import output_layer_of
from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_tokens,
    random_kv_prefix,
)
from pipeline.prefix.accompanied import AccompaniedPrefix
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.distractors import Distractors, read_distractors
from pipeline.training.loop import train_prefix
from tests.conftest import Workspace, kv_of, tiny_model, tiny_tokenizer
from tests.prefix.architectures import build
from tests.test_distillation import example as taught_example
from tests.test_together import Spec, examples

FROZEN = tiny_model()
OTHERS = {
    "glossary": kv_prefix_from_tokens(FROZEN, [11, 12, 13]),
    "handbook": kv_prefix_from_tokens(FROZEN, [21, 22]),
    "rules": kv_prefix_from_tokens(FROZEN, [31, 32, 33, 34]),
}


def prefixed(frozen: PreTrainedModel, p: int = 3, **how: Any) -> PrefixModel:
    torch.manual_seed(0)
    model = PrefixModel(frozen, PrefixConfig(p, **how))
    draw = torch.Generator().manual_seed(1)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, p, 0.5, draw))
    return model.train()


def drawing(count: int = 2, probability: float = 1.0, seed: int = 0) -> Distractors:
    params = DistractorParams(count=count, probability=probability)
    return Distractors(prefixed(FROZEN), OTHERS, params, seed, longest=20)


def gradient(model: PrefixModel, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [*model.encoder.parameters()]))


@pytest.mark.parametrize(
    "how", [{}, {"prefix_projection": True, "encoder_hidden_size": 6}, {"num_frozen_tokens": 1}]
)
def test_loss_and_gradient_are_those_of_the_composition(how: dict[str, Any]) -> None:
    model, others = prefixed(FROZEN, **how), [OTHERS["glossary"], OTHERS["handbook"]]
    among = AccompaniedPrefix(model, others, ["glossary", "handbook"], 5).among([1], [0])
    rows = [dict(row) for row in examples(4)]
    parts = [OTHERS["handbook"], kv_of(model), OTHERS["glossary"]]
    together = PrefixModel.compose(FROZEN, parts).train()
    loss, expected = TargetLoss(among)(rows), TargetLoss(together)(rows)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    # A small step of the trained prefix changes the composition's loss by what its gradient says.
    found = gradient(model, loss)
    square = float(sum(grad.square().sum() for grad in found))
    step = 1e-2 / square**0.5
    with torch.no_grad():
        for parameter, grad in zip(model.encoder.parameters(), found, strict=True):
            parameter.sub_(step * grad)
        fall = float(expected - TargetLoss(among)(rows))
    assert fall == pytest.approx(step * square, rel=0.05)
    assert not any(tensor.requires_grad for kv in others for tensor in (*kv.keys, *kv.values))
    assert {id(p) for p in among.parameters() if p.requires_grad} == {
        id(p) for p in model.encoder.parameters()
    }


def test_packed_and_padded_rows_have_one_gradient() -> None:
    model = prefixed(FROZEN)
    among = AccompaniedPrefix(model, [OTHERS["rules"]], ["rules"], 4).among([0], [])
    rows = [dict(row) for row in examples(3)]
    assert among.why_not_packed(tokens=20) is None
    packed = gradient(model, TargetLoss(among)(rows))
    losses = []
    for row in rows:
        ids, start = torch.tensor([row["input_ids"]]), int(row["target_start"])
        logits = among(input_ids=ids).logits[0, start - 1 : -1]
        losses.append(F.cross_entropy(logits, ids[0, start:], reduction="sum"))
    for one, other in zip(packed, gradient(model, torch.stack(losses).sum()), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_what_stands_beside_it_is_drawn_by_seed_and_step() -> None:
    def of(distractors: Distractors, step: int) -> tuple[int, ...] | None:
        model = distractors.model_of(step)
        if model is None:
            return None
        encoder: Any = model.encoder
        return (*map(len, encoder.before), -1, *map(len, encoder.after))

    two = drawing()
    drawn = [of(two, step) for step in range(150)]
    # A step's draw needs none of those before it.
    assert of(drawing(), 40) == drawn[40]
    other = drawing(seed=1)
    assert drawn != [of(other, step) for step in range(150)]
    # Two of three, in any order, before it, around it, or after it.
    assert len(set(drawn)) == 6 * 3
    now_and_then = drawing(1, 0.25)
    some = [of(now_and_then, step) for step in range(200)]
    assert 30 < sum(chosen is not None for chosen in some) < 70


def trained(
    checkpoints: CheckpointFolder | None = None,
    log_step: Any = lambda *_: None,
    probability: float = 0.5,
) -> KVPrefix:
    spec = Spec(3, 0, prefix={"prefix_dropout": 0.2})
    model = spec.model(FROZEN)
    params = DistractorParams(count=1, probability=probability)
    distractors = Distractors(model, OTHERS, params, 0, 20)
    result = train_prefix(
        *(model, spec.examples, examples(3), spec.params, 0, log_step),
        checkpoints,
        beside=distractors.model_of,
    )
    distractors.detach()
    model.detach()
    assert isinstance(result.prefix, KVPrefix)
    return result.prefix


def test_a_stopped_training_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "x", "digest", 2)
    before = [kv.keys[0].clone() for kv in OTHERS.values()]

    def stop(step: int, _: Mapping[str, float]) -> None:
        if step == 4:
            raise StoppedError("stopped", 15)

    expected = trained()
    with pytest.raises(StoppedError):
        trained(folder, stop)
    found = trained(folder)
    for one, other in zip(found.keys + found.values, expected.keys + expected.values, strict=True):
        assert torch.equal(one, other)
    assert all(map(torch.equal, before, (kv.keys[0] for kv in OTHERS.values())))
    assert not torch.equal(trained(probability=1.0).keys[0], expected.keys[0])


def test_a_distilled_loss_among_others_is_that_of_the_composition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output layer is tried once for the whole training, not in each step."""
    draw = torch.Generator().manual_seed(3)
    rows = [taught_example(draw, 4 + i, 2 + i, 8) for i in range(4)]
    model = prefixed(FROZEN)
    params = TrainParams.model_validate(
        {
            "objective": {"type": "distillation", "teacher": "rules", "path": "x", "weight": 0.7},
            **{"epochs": None, "max_steps": 3, "batch_size": 4, "learning_rate": 1e-30},
        }
    )
    tried: list[int] = []

    def trying(frozen: PreTrainedModel) -> Any:
        tried.append(1)
        return output_layer_of(frozen)

    monkeypatch.setattr(states, "output_layer_of", trying)
    split = Dataset.from_list([{k: np.asarray(v).tolist() for k, v in row.items()} for row in rows])
    distractors = Distractors(model, OTHERS, DistractorParams(count=2, probability=0.5), 1, 20)
    data = model, split, split, params, 0
    result = train_prefix(*data, lambda *_: None, beside=distractors.model_of)
    assert len(tried) == 1
    beside = [distractors.model_of(step) for step in (1, 2, 3)]
    assert None in beside
    assert beside.count(None) < 3
    targets = sum(len(row["input_ids"]) - row["target_start"] for row in rows)
    for among, row in zip(beside, result.history[1:], strict=True):
        expected = kv_of(among or model)
        together = PrefixModel(FROZEN, PrefixConfig(len(expected)))
        together.load_kv_prefix(expected)
        loss = float(DistillationLoss(together, 0.7)(rows)) / targets
        assert row["train/loss"] == pytest.approx(loss, rel=1e-4)
    distractors.detach()


def write(folder: Path) -> DistractorParams:
    OTHERS["glossary"].save(folder / "glossary.safetensors")
    (folder / "rules").mkdir()
    OTHERS["rules"].save(folder / "rules" / "prefix.safetensors")
    return DistractorParams(path=str(folder), count=2)


def test_prefixes_of_a_folder(tmp_path: Path) -> None:
    params = write(tmp_path)
    found = read_distractors(params)
    assert {name: len(kv) for name, kv in found.items()} == {"glossary": 3, "rules": 4}
    named = params.model_copy(update={"prefixes": ["rules"], "count": 1})
    assert list(read_distractors(named)) == ["rules"]
    assert read_distractors(params.model_copy(update={"count": 0})) == {}
    with pytest.raises(
        PipelineError, match=r"holds no other.safetensors, .* holds glossary, rules"
    ):
        read_distractors(named.model_copy(update={"prefixes": ["other"]}))
    with pytest.raises(PipelineError, match="3 at once are more than the 2 prefixes in"):
        read_distractors(params.model_copy(update={"count": 3}))


def test_what_cannot_stand_beside_it_is_refused() -> None:
    params = DistractorParams(count=1)
    long = DistractorParams(count=3)
    with pytest.raises(
        PipelineError, match="9 virtual tokens of distractors and an example of 505"
    ):
        Distractors(prefixed(FROZEN), OTHERS, long, 0, 505)
    other = {"other": kv_prefix_from_tokens(tiny_model(num_hidden_layers=3), [5])}
    with pytest.raises(PrefixError, match=r"the prefix that is trained was made with .* and other"):
        Distractors(prefixed(FROZEN), other, params, 0, 20)
    learned = build("gpt2")
    own = {"own": kv_prefix_from_tokens(learned, [5])}
    with pytest.raises(PrefixError, match="positions are part of their keys"):
        Distractors(prefixed(learned), own, params, 0, 20)


def test_the_benchmark_runs_in_miniature() -> None:
    facts = ({"area": "91 sq km", "coast": "61 km"}, {"area": "652 sq km", "coast": "0 km"})
    documents = [Document(name, known) for name, known in zip("AB", facts, strict=True)]
    # No step that moves anything: what is trained alone and among others is one and the same.
    still = {"learning_rate": 1e-30, "batch_size": 2}
    rows = Measurement(FROZEN, tiny_tokenizer(), documents, Settings(4, 2, 1.0, train=still)).rows()
    losses = {row["before the question"]: row["loss"] for row in rows}
    assert len(losses) == 8
    own = losses["its own prefix, untrained"]
    for way in ("trained alone", "trained with distractors"):
        assert losses[f"its own prefix, {way}"] == own
        assert losses[f"its own and another's, {way}"] not in (own, losses["nothing"])
    assert losses["nothing"] != own
    assert {row["times its own"] for row in rows if "own prefix" in row["before the question"]} == {
        1.0
    }


@pytest.mark.real
def test_the_stage_trains_among_those_of_a_folder(copy: Workspace) -> None:
    variant = ("train", "--length", "2", "--initialization", "random", "--seed", "0")
    path = copy.root / "data" / "train" / "len2-random-seed0" / "prefix.safetensors"
    before = path.read_bytes()
    copy.edit(lambda p: p["prefix"]["distractors"].update(path="others", count=1, probability=1.0))
    refusal = copy.pipeline("check", check=False).stderr
    assert "prefix.distractors.count: 1 at once are more than the 0 prefixes in others" in refusal
    OTHERS["rules"].save(copy.root / "others" / "rules.safetensors")
    copy.pipeline(*variant)
    with_rules = path.read_bytes()
    assert with_rules != before
    # A checkpoint with another distractor is of no use.
    OTHERS["handbook"].save(copy.root / "others" / "rules.safetensors")
    copy.pipeline(*variant)
    assert path.read_bytes() not in (with_rules, before)
