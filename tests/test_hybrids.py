"""Models with recurrent layers train, are measured and go on as each example alone would."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from ruamel.yaml import YAML
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.cli.main import main
from pipeline.config.evaluate import EvaluateParams
from pipeline.config.train import TrainParams
from pipeline.errors import DivergedError
from pipeline.evaluation.batches import Apart
from pipeline.evaluation.generation import add_batches, measure_examples
from pipeline.inspection.inputs import loss_on
from pipeline.inspection.looking import Prefix, look_into
from pipeline.inspection.shown import shown
from pipeline.loss.causal import TargetLoss
from pipeline.models.kinds import kinds_of_model
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_tokens
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from pipeline.training.optimizer import build_optimizer
from pipeline.training.progress import TrainingResult
from pipeline.training.rates import state_rate
from pipeline.training.step import Step
from pipeline.training.training import Training
from tests.conftest import kv_of, tiny_model, tiny_params
from tests.hybrids import HYBRIDS, falcon_h1, lfm2, mamba2, qwen3_next

IDS = [40, 9, 77, 200, 9, 133]


@pytest.fixture(params=HYBRIDS)
def frozen(request: pytest.FixtureRequest) -> PreTrainedModel:
    model: PreTrainedModel = HYBRIDS[request.param]()
    return model


def started(model: PreTrainedModel, **how: Any) -> PrefixModel:
    """A model whose prefix starts from a text."""
    prefixed = PrefixModel(model, PrefixConfig(len(IDS), **how)).eval()
    prefixed.load_kv_prefix(kv_prefix_from_tokens(model, IDS))
    return prefixed


def examples(lengths: list[int]) -> list[dict[str, Any]]:
    """Rows of these many tokens, half of them the target's."""
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 260, (length,), generator=draw).tolist() for length in lengths]
    return [{"input_ids": ids, "target_start": max(1, len(ids) // 2)} for ids in rows]


def test_padding_before_a_row_is_for_what_keeps_no_state(frozen: PreTrainedModel) -> None:
    model = started(frozen)
    assert model.padding == "right"
    assert model.padding_group(9) == model.padding_group(3)
    assert model.padding_group(9, padded=4) != model.padding_group(9, padded=5)
    assert PrefixModel(tiny_model(), PrefixConfig(3)).padding == "left"


@pytest.mark.parametrize("kinds", [None, ("attention",), ("state",)], ids=str)
def test_loss_and_gradient_are_those_of_each_example_alone(
    frozen: PreTrainedModel, kinds: tuple[str, ...] | None
) -> None:
    rows = examples([4, 9, 9, 6, 14, 5])
    model = started(frozen, kinds=kinds)
    loss_of = TargetLoss(model)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(parts: list[list[Any]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        losses = [loss_of(part) for part in parts]
        torch.stack(losses).sum().backward()
        found = [p.grad for p in parameters if p.grad is not None]
        assert len(found) == len(parameters)
        return sum(loss.item() for loss in losses), torch.cat([g.flatten() for g in found])

    # All at once is what validation does with a batch, and parts are what a training step does.
    loss, alone = gradients([[row] for row in rows])
    for parts in ([rows], list(loss_of.parts(rows))):
        together, gradient = gradients(parts)
        assert together == pytest.approx(loss, rel=1e-5)
        assert float((gradient - alone).norm()) < 1e-4 * float(alone.norm())


def test_generation_is_that_of_each_input_alone(
    frozen: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = examples([8, 12, 8, 9, 12, 3])
    model = started(frozen)
    params = EvaluateParams(splits=["test"], max_new_tokens=5)
    split = Dataset.from_list(rows)
    found = measure_examples(model, tokenizer, split, params, "test", 400)
    for row, outcome in zip(rows, found, strict=True):
        (own,) = measure_examples(model, tokenizer, Dataset.from_list([row]), params, "test", 400)
        assert outcome.text == own.text
        assert outcome.loss == pytest.approx(own.loss, rel=1e-5)
    apart = Apart(model)
    add_batches(apart, model, split, params, 400)
    apart.tell()
    said = capsys.readouterr().err
    assert "3 batches for 6 examples, where padded ones would be 1" in said


def test_each_kind_has_its_own_rate() -> None:
    model = started(qwen3_next())
    parameters = [p for p in model.parameters() if p.requires_grad]
    (states,) = model.state_parameters
    params = TrainParams(learning_rate=1e-2, schedule="constant")
    given = params.model_copy(update={"state_learning_rate": 3e-4})
    assert state_rate(model, given) == 3e-4
    assert state_rate(started(qwen3_next(), kinds=("attention",)), given) is None
    rate = state_rate(model, params)
    assert rate is not None
    before = {id(p): p.detach().clone() for p in parameters}
    optimizer, _ = build_optimizer(parameters, params, 10, model.state_parameters, rate)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in parameters:
        moved = before[id(parameter)] - parameter
        expected = rate if parameter is states else 1e-2
        assert torch.allclose(moved, torch.tensor(expected), rtol=1e-2)


def test_the_rate_of_states_goes_by_their_size() -> None:
    """Ten times the inputs of a convolution are ten times its state."""
    params, rates = TrainParams(learning_rate=1e-2), []
    for scale in (1.0, 10.0):
        model = lfm2()
        with torch.no_grad():
            for layer in (0, 2):
                # Its input is the product of the first and the last third.
                gate, _, value = model.model.layers[layer].conv.in_proj.weight.chunk(3)
                gate.mul_(scale**0.5)
                value.mul_(scale**0.5)
        rate = state_rate(started(model), params)
        assert rate is not None
        rates.append(rate)
    assert rates[1] == pytest.approx(10 * rates[0], rel=0.3)


@pytest.mark.parametrize(
    ("kinds", "rate", "named"),
    [
        (None, 1e3, "train.learning_rate or train.state_learning_rate: at step 2 "),
        (("state",), 1e3, "train.state_learning_rate: at step 2 "),
        (("attention",), 1e3, "train.learning_rate: at step 2 "),
        (None, None, "train.learning_rate: at step 2 "),
    ],
)
def test_a_training_that_diverges_names_what_gives_its_rates(
    kinds: tuple[str, ...] | None, rate: float | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = TrainParams(epochs=None, max_steps=3, batch_size=1, state_learning_rate=rate)
    split = Dataset.from_list(examples([5, 9]))
    training = Training(started(lfm2(), kinds=kinds), split, split, params, 0, lambda *_: None)
    step = Step(2, 0.0, {}, 1e-3, [], loss=float("nan"))
    with pytest.raises(DivergedError) as found:
        training.update(step)
    assert str(found.value).startswith(named)


class CutOffError(Exception):
    """Ends a training in the middle."""


@pytest.mark.parametrize(
    "rows", [{}, {"optimizer": {"type": "muon"}, "averaging": {"type": "ema", "decay": 0.5}}]
)
def test_resumed_is_uninterrupted(rows: dict[str, Any], tmp_path: Path) -> None:
    split = Dataset.from_list(examples([5, 9, 7, 9, 12]))
    settings: dict[str, Any] = {"epochs": None, "max_steps": 5, "batch_size": 2}
    settings |= {"eval_every_steps": 2, "state_learning_rate": 1e-3}
    params = TrainParams(**settings | rows)

    def run(folder: CheckpointFolder | None, cut_after: int | None = None) -> TrainingResult:
        def log_step(step: int, _: Mapping[str, float]) -> None:
            if step == cut_after:
                raise CutOffError

        model = started(qwen3_next(), prefix_dropout=0.2)
        return train_prefix(model, split, split, params, 3, log_step, folder)

    whole = run(None)
    assert whole.best_step > 0
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    for cut in (2, 4):
        with pytest.raises(CutOffError):
            run(folder, cut)
    # The second time all of it is out of the checkpoint.
    for again in (run(folder), run(folder)):
        assert again.history == whole.history
        assert same(again.prefix, whole.prefix)


def same(one: Any, other: Any) -> bool:
    """Whether two prefixes have the same numbers under the same names."""
    assert isinstance(one, KVPrefix)
    assert isinstance(other, KVPrefix)
    assert list(one.states) == list(other.states)
    assert one.states
    pairs = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    states = ((one.states[name], state) for name, state in other.states.items())
    return all(torch.equal(a, b) for a, b in (*pairs, *states))


def test_a_prefix_of_every_kind_is_measured_as_it_was_trained(frozen: PreTrainedModel) -> None:
    """A file says by itself which kinds, and which layers, its model is to have."""
    ids = torch.tensor([IDS[::-1]])
    layers = {name.partition(".")[0] for name in kv_of(started(frozen)).states}
    chosen = (min(map(int, layers)),)
    for how in ({}, {"kinds": ("attention",)}, {"kinds": ("state",)}, {"layers": chosen}):
        model = started(frozen, **how)
        again = prefixed_model(frozen, kv_of(model))
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
        again.detach()
        model.detach()


@pytest.mark.parametrize("kinds", [None, ("state",)], ids=str)
def test_looking_into_states(
    kinds: tuple[str, ...] | None, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = started(qwen3_next(), kinds=kinds)
    start = kv_of(model)
    (states,) = model.state_parameters
    with torch.no_grad():
        states.mul_(1.5)
    rows = examples([6, 8])
    found = look_into(Prefix("x", model, tokenizer, start, "a text", None, "test", rows), 200)
    moved = found.tables["movement"].set_index(["layer", "tensor"])["relative"]
    assert moved.loc[(0, "recurrent")] == pytest.approx(0.5)
    assert moved.loc[(2, "conv")] == pytest.approx(0.5)
    tried = found.tables["ablation"]
    loss = loss_on(rows, 200)
    assert tried["loss"].iloc[0] == pytest.approx(loss(model))
    # A layer without its state is one that begins as the frozen model does.
    kv = kv_of(model)
    zeros = {n: torch.zeros_like(s) for n, s in kv.states.items() if n.startswith("2.")}
    model.load_kv_prefix(replace(kv, states={**kv.states, **zeros}))
    without = tried[(tried["without"] == "layers") & (tried["first"] == 2)]
    assert without["loss"].item() == pytest.approx(loss(model))
    assert "states moved" in shown(found)
    said = set(tried["without"])
    assert ("trained states" in said) == ("tokens" in said) == (kinds is None)
    # Inputs attend in layer 1 alone, and in it to nothing but the prefix and themselves.
    assert ("attention_of_layers" in found.tables) == (kinds is None)
    if kinds is None:
        seen = found.tables["attention_of_layers"]
        assert list(seen["layer"]) == [1]
        assert (seen["prefix"] + seen["input"]).item() == pytest.approx(1.0)


def test_words_of_a_layer_that_recurs_beside_its_attention(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = started(falcon_h1())
    found = look_into(Prefix("x", model, tokenizer, None, "", None, "test", []), 200)
    nearest = found.tables["words"].query("rank == 1")
    assert list(nearest["id"]) == IDS
    assert nearest["cosine"].min() > 0.999


WRONG: dict[str, tuple[Callable[[], PreTrainedModel], dict[str, Any], str]] = {
    "states where nothing recurs": (
        tiny_model,
        {"prefix": {"kinds": ["state"]}},
        "prefix.kinds: ['state'] names state, but no layer of this model is recurrent; use null",
    ),
    "a rate of states where nothing recurs": (
        tiny_model,
        {"train": {"state_learning_rate": 1e-3}},
        "train.state_learning_rate: 0.001 is of initial states, but no layer of this model is "
        "recurrent; set it to null",
    ),
    "packed rows": (
        lfm2,
        {"hardware": {"attention": "operators"}},
        "hardware.attention: operators is of packed rows, through which this model would carry a "
        "state from one example into the next; set it to auto",
    ),
    "compiled layers": (lfm2, {"train": {"compile": True}}, "train.compile: true is for packed"),
    "single tokens of a text": (
        lfm2,
        {"initializations": {"most": {"type": "most_attended", "path": "texts/corpus.txt"}}},
        "initializations.most.type: most_attended chooses single tokens of a text, which the "
        "states of this model do not keep apart; use corpus_text or corpus_chunks",
    ),
    "keys and values matched to a text": (
        lfm2,
        {"initializations": {"few": {"type": "attention_matching", "path": "texts/corpus.txt"}}},
        "initializations.few.type: attention_matching chooses single tokens of a text, which the "
        "states of this model do not keep apart; use corpus_text or corpus_chunks",
    ),
    "demonstrations that states have read": (
        lfm2,
        {
            "prefix": {"leave_one_out": True},
            "initializations": {
                "shown": {"type": "demonstrations", "path": "data/raw/train.jsonl"}
            },
            "sweep": {"initializations": ["random", "shown"]},
        },
        "prefix.leave_one_out: true hides keys and values of a training example, which the states "
        "of this model have read too; set it to false",
    ),
    "states beside other documents'": (
        lfm2,
        {"prefix": {"distractors": {"path": "inputs/others", "count": 1}}},
        "prefix.distractors.count: 1 needs prefixes of keys and values, and this model has states "
        "too, which cannot stand beside others; set prefix.kinds to [attention], or count to 0",
    ),
    "a layer that there is not": (
        lfm2,
        {"prefix": {"layers": [1, 3]}},
        "prefix.layers: names 3, but the model's layers are 0 to 2; leave it out, or use null",
    ),
    "a module that there is not": (
        lfm2,
        {"trained_baselines": {"lora": {"type": "lora", "target_modules": ["q_prj"]}}},
        "trained_baselines.lora.target_modules: names 'q_prj', as no module of this model is "
        "called; its linear layers are",
    ),
    "a prompt, whose states would be left out": (
        lfm2,
        {"trained_baselines": {"words": {"type": "prompt_tuning"}}},
        "trained_baselines.words: prompt_tuning is of keys and values, and this model has states "
        "beside them; leave it out",
    ),
    "a trained variant of another length": (
        lfm2,
        {
            "initializations": {
                "longer": {
                    "type": "trained_variant",
                    "path": "data/train/len2-random-seed0/prefix.safetensors",
                }
            },
            "sweep": {"initializations": ["random", "longer"]},
        },
        "which can be neither cut nor stretched to 4; use 2 alone, or prefix.kinds: [attention]",
    ),
    "a prefix file of another length": (
        lfm2,
        {
            "initializations": {"earlier": {"type": "prefix_file", "path": "inputs/earlier"}},
            "sweep": {"initializations": ["random", "earlier"], "lengths": [2, 6]},
        },
        "initializations.earlier.path: 'inputs/earlier' holds states, made with 6 virtual tokens, "
        "which can be neither cut nor stretched to 2; use 6 alone, or prefix.kinds: [attention]",
    ),
    "a prefix file of another length, untrained": (
        lfm2,
        {
            "initializations": {"earlier": {"type": "prefix_file", "path": "inputs/earlier"}},
            "sweep": {"initializations": ["random"]},
            "baselines": {
                "start": {"type": "untrained", "path": "data/kv_prefix/earlier", "length": 4}
            },
        },
        "initializations.earlier.path: 'inputs/earlier' holds states, made with 6 virtual tokens, "
        "which can be neither cut nor stretched to 4; use 6 alone, or prefix.kinds: [attention]",
    ),
    "a prefix file of keys and values alone": (
        lfm2,
        {
            "initializations": {"earlier": {"type": "prefix_file", "path": "inputs/attending"}},
            "sweep": {"initializations": ["random", "earlier"]},
        },
        "initializations.earlier.path: 'inputs/attending' holds keys and values alone, and this "
        "model has states beside them; set prefix.kinds to [attention], or start from a text",
    ),
    # Keys of `prefix.kinds` would be refused next where no layer attends.
    "other documents' where nothing attends": (
        mamba2,
        {"prefix": {"distractors": {"path": "inputs/others", "count": 1}}},
        "prefix.distractors.count: 1 needs prefixes of keys and values, but no layer of this model "
        "attends; set it to 0",
    ),
    "a prefix file of another length where nothing attends": (
        mamba2,
        {
            "initializations": {"earlier": {"type": "prefix_file", "path": "inputs/earlier"}},
            "sweep": {"initializations": ["random", "earlier"], "lengths": [2, 6]},
        },
        "initializations.earlier.path: 'inputs/earlier' holds states, made with 6 virtual tokens, "
        "which can be neither cut nor stretched to 2; use 6 alone\n",
    ),
    "a prefix file of keys and values alone where nothing attends": (
        mamba2,
        {
            "initializations": {"earlier": {"type": "prefix_file", "path": "inputs/attending"}},
            "sweep": {"initializations": ["random", "earlier"]},
        },
        "initializations.earlier.path: 'inputs/attending' holds keys and values alone, but no "
        "layer of this model attends; start from a text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_model_cannot_do_is_told_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, edits, expected = WRONG[name]
    monkeypatch.chdir(tmp_path)
    model = make()
    model.config.save_pretrained(tmp_path / "model")
    (tmp_path / "inputs").mkdir()
    kv = kv_of(started(model))
    kv.save(tmp_path / "inputs" / "earlier")
    attending = kv_of(started(lfm2())).of_kinds(("attention",))
    attending.save(tmp_path / "inputs" / "attending")
    (tmp_path / "inputs" / "others").mkdir()
    attending.save(tmp_path / "inputs" / "others" / "one.safetensors")
    for split in ("train.jsonl", "validation.csv", "test.parquet"):
        (tmp_path / "inputs" / split).write_text("{}")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "corpus.txt").write_text("a text")
    params = tiny_params(tmp_path / "model")
    for section, keys in edits.items():
        params[section] = {**params.get(section, {}), **keys}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_configuration_that_transformers_refuses_is_of_no_kind(tmp_path: Path) -> None:
    """What is wrong with it says who loads it."""
    config = {"model_type": "lfm2", "num_hidden_layers": "two"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kinds_of_model(tmp_path) is None
