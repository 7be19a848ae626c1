"""Examples do not see their own demonstration, and no example a drawn share of virtual tokens."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from pipeline.config import load_params
from pipeline.config.load import read_yaml
from pipeline.data.batching import Example
from pipeline.distributed.ranks import Ranks
from pipeline.errors import PipelineError, StoppedError
from pipeline.loss.causal import TargetLoss
from pipeline.loss.distillation import DistillationLoss
from pipeline.models import for_variant
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.accompanied import AccompaniedPrefix
from pipeline.prefix.demonstrated import DEMONSTRATIONS, note, tokens_of
from pipeline.prefix.packed.backends import use_backend
from pipeline.stages import kv_prefix, train, train_together
from pipeline.sweep.variants import Variant
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.left_out import Group, LeftOut
from pipeline.training.loop import train_prefix
from pipeline.training.parts import grouped_parts_of, loss_of_groups
from pipeline.training.progress import TrainingResult
from pipeline.training.together import train_all
from pipeline.training.training import Training
from pipeline.workspace import paths
from tests.conftest import kv_of, tiny_model
from tests.faults.training_folder import make_training_folder, working_in, write_params
from tests.test_distillation import example as taught_example
from tests.test_together import Spec, assert_alike, examples

P = 6
FROZEN = tiny_model()
OWN = {"0": frozenset({1, 2}), "2": frozenset({2, 3, 4}), "4": frozenset(range(P))}
"""Example 4 is all of the prefix."""


def named(count: int) -> Dataset:
    rows = examples(count)
    return rows.add_column("id", [str(i) for i in range(count)])


def prefixed(frozen: PreTrainedModel, p: int = P, **how: Any) -> PrefixModel:
    torch.manual_seed(0)
    model = PrefixModel(frozen, PrefixConfig(p, **how))
    draw = torch.Generator().manual_seed(1)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, p, 0.5, draw))
    return model.train()


def cut_out(model: PrefixModel, row: Mapping[str, Any], hidden: frozenset[int]) -> torch.Tensor:
    """The loss by transformers alone: a cache without the hidden tokens, positions as they were."""
    kv, frozen = model.encoder(), model.frozen_model
    assert isinstance(kv, KVPrefix)
    kept = [token for token in range(len(kv)) if token not in hidden]
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
        if kept:
            cache.update(key[None, :, kept], value[None, :, kept], layer)
    ids, start = torch.tensor([row["input_ids"]]), int(row["target_start"])
    positions = torch.arange(len(kv), len(kv) + ids.shape[1])[None]
    logits = frozen(input_ids=ids, past_key_values=cache, position_ids=positions).logits[0]
    return F.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum")


@pytest.fixture
def attention(request: pytest.FixtureRequest) -> Iterator[str]:
    use_backend("operators" if request.param == "operators" else "auto")
    yield request.param
    use_backend("auto")


PROJECTED = {"prefix_projection": True, "encoder_hidden_size": 6}
WAYS: list[tuple[str, bool, dict[str, Any]]] = [
    *(("packed", recomputed, {}) for recomputed in (False, True)),
    *(("padded", recomputed, {}) for recomputed in (False, True)),
    ("operators", False, {}),
    ("packed", False, PROJECTED),
]


@pytest.mark.parametrize(("attention", "recomputed", "how"), WAYS, indirect=["attention"])
def test_what_is_hidden_is_cut_out_and_positions_stay(
    attention: str, recomputed: bool, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prefixed(tiny_model(), **how)
    rows = list(named(5))
    left_out = LeftOut(P, 0.3, demonstrations=OWN)
    step = next(step for step in range(50) if len(left_out.dropped(step)) == 1)
    hidden = [left_out.dropped(step) | left_out.own(row) for row in rows]
    parameters = [*model.encoder.parameters()]
    expected = torch.stack([cut_out(model, *pair) for pair in zip(rows, hidden, strict=True)]).sum()
    slopes = torch.autograd.grad(expected, parameters)
    if recomputed:
        model.gradient_checkpointing_enable()
    if attention == "padded":
        monkeypatch.setattr(TargetLoss, "packs", lambda self, tokens: False)
    loss_of = TargetLoss(model)
    parts = [groups for groups, _ in grouped_parts_of(rows, loss_of, train.ALONE, left_out, step)]
    # One packed row holds all; padded ones are computed a group at a time.
    assert (len(parts) == 1) == (attention != "padded")
    losses = [loss_of_groups(loss_of, groups, 0.5) for groups in parts]
    torch.testing.assert_close(2 * torch.stack(losses).sum(), expected, rtol=1e-5, atol=0)
    for loss in losses:
        if loss.requires_grad:
            loss.backward()
    for parameter, slope in zip(parameters, slopes, strict=True):
        assert parameter.grad is not None
        assert (2 * parameter.grad - slope).norm() <= 1e-5 * slope.norm()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(0, 2**32), st.integers(1, 10**6))
def test_every_step_draws_anew_and_leaves_a_token(
    length: int, dropout: float, seed: int, step: int
) -> None:
    frozen = seed % length
    left_out = LeftOut(length, dropout, frozen, seed)
    dropped = left_out.dropped(step)
    assert dropped <= set(range(frozen, length))
    assert len(dropped) < length
    # The step and the seed say all: a training that goes on meets what it would have met.
    assert LeftOut(length, dropout, frozen, seed).dropped(step) == dropped
    rows: list[Example] = [{"id": i, "input_ids": [1]} for i in range(5)]
    assert left_out.groups(step, rows) == [Group(dropped, rows)]


def test_the_share_that_is_drawn_is_the_probability() -> None:
    for seed in range(3):
        left_out = LeftOut(50, 0.1, seed=seed)
        drawn = [left_out.dropped(step) for step in range(400)]
        # 20,000 draws: within four standard deviations.
        assert 0.1 * 20_000 - 170 < sum(map(len, drawn)) < 0.1 * 20_000 + 170
        assert frozenset().union(*drawn) == set(range(50))
        assert len(set(drawn)) > 300


def test_the_answers_of_one_conversation_are_one_demonstration() -> None:
    left_out = LeftOut(P, demonstrations=OWN)
    ids = ("2", "2#1", "2#12", "3", "2#x", "#2")
    found = {name: left_out.own({"id": name}) for name in ids}
    assert found == {**dict.fromkeys(ids, frozenset()), **dict.fromkeys(ids[:3], OWN["2"])}


@pytest.mark.parametrize("packs", [True, False])
def test_processes_make_as_many_calls_and_share_every_group(
    packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TargetLoss, "packs", lambda self, tokens: packs)
    rows, loss_of = list(named(7)), TargetLoss(prefixed(FROZEN))
    left_out = LeftOut(P, 0.3, demonstrations=OWN)
    found = [
        list(grouped_parts_of(rows, loss_of, Ranks(rank, 3), left_out, 1)) for rank in range(3)
    ]
    assert len({len(calls) for calls in found}) == 1
    counted: dict[str, frozenset[int]] = {}
    for groups, counts in (call for calls in found for call in calls):
        for group in groups if counts else ():
            names = [row["id"] for row in group.examples]
            assert not counted.keys() & {*names}
            counted |= dict.fromkeys(names, group.hidden)
    assert counted == {row["id"]: left_out.dropped(1) | left_out.own(row) for row in rows}


def ended(
    left_out: LeftOut, checkpoints: CheckpointFolder | None = None, log_step: Any = None, **how: Any
) -> TrainingResult:
    spec = Spec(P, 3, prefix={"prefix_dropout": 0.2}, train=how)
    model = spec.model(FROZEN)
    data = named(6), examples(3), spec.params, spec.seed
    log = log_step or (lambda *_: None)
    result = train_prefix(model, *data, log, checkpoints, left_out=left_out)
    model.detach()
    return result


BOTH = LeftOut(P, 0.4, 1, 3, OWN)


def test_a_stopped_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def stop(step: int, _: Mapping[str, float]) -> None:
        if step == 4:
            raise StoppedError("stopped", 15)

    folder, whole = CheckpointFolder(tmp_path / "x", "digest", 2), ended(BOTH)
    with pytest.raises(StoppedError):
        ended(BOTH, folder, stop)
    again = ended(BOTH, folder)
    assert again.history == whole.history
    assert isinstance(again.prefix, KVPrefix)
    assert isinstance(whole.prefix, KVPrefix)
    assert all(map(torch.equal, again.prefix.keys, whole.prefix.keys))
    for other in (LeftOut(P), LeftOut(P, 0.4, 1, 3)):
        history = ended(other).history
        assert history[1:] != whole.history[1:]
        # Validation sees the whole prefix.
        assert history[0] == whole.history[0]


def test_steps_of_several_batches_and_trainings_together_are_as_alone() -> None:
    hidden = LeftOut(P, 0.4, 0, 3, OWN)
    spec = Spec(P, 3, train={"batch_size": 3})
    parts = Spec(P, 3, train={"batch_size": 1, "gradient_accumulation_steps": 3})
    alone = train_prefix(
        *(spec.model(FROZEN), named(6), examples(3), spec.params, 3, lambda *_: None),
        left_out=hidden,
    )
    specs, left_out = (spec, parts, Spec(4, 1)), (hidden, hidden, LeftOut(4))
    trainings = [
        Training(
            *(one.model(FROZEN), named(6), examples(3), one.params, one.seed, lambda *_: None),
            left_out=own,
        )
        for one, own in zip(specs, left_out, strict=True)
    ]
    errors: list[PipelineError | None] = []
    train_all(trainings, lambda _, error: errors.append(error))
    assert errors == [None] * 3
    for training in trainings[:2]:
        assert_alike(training.result, alone)


def test_one_that_sees_nothing_trains_nothing() -> None:
    """Of a batch of nothing else the loss counts, and the prefix stays."""
    model = prefixed(FROZEN)
    before = kv_of(model).keys[0]
    rows = named(5).select([4])
    params = Spec(P, 0, train={"max_steps": 2, "batch_size": 1}).params
    result = train_prefix(
        *(model, rows, examples(3), params, 0, lambda *_: None),
        left_out=LeftOut(P, demonstrations=OWN),
    )
    assert [row["train/gradient_norm"] for row in result.history[1:]] == [0.0, 0.0]
    assert torch.equal(kv_of(model).keys[0], before)


def test_beside_others_its_own_tokens_are_hidden() -> None:
    model = prefixed(FROZEN)
    other = kv_of(prefixed(FROZEN, 3))
    among = AccompaniedPrefix(model, [other], ["other"], 3).among([0], [])
    rows, left_out = list(named(3)), LeftOut(P, demonstrations=OWN)
    ((groups, _),) = grouped_parts_of(rows, TargetLoss(among), train.ALONE, left_out, 1)
    assert [group.hidden for group in groups] == [{4, 5}, set(), {5, 6, 7}]


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_a_distilled_loss_is_that_of_each_group(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "padded":
        monkeypatch.setattr(DistillationLoss, "packs", lambda self, tokens: False)
    draw = torch.Generator().manual_seed(2)
    rows = [{**taught_example(draw, 4 + i, 2 + i, 8), "id": str(i)} for i in range(4)]
    model, left_out = prefixed(FROZEN), LeftOut(P, demonstrations=OWN)
    loss_of = DistillationLoss(model, 0.7)
    parts = grouped_parts_of(rows, loss_of, train.ALONE, left_out, 1)
    found = sum(loss_of_groups(loss_of, groups, 1.0).item() for groups, _ in parts)
    expected = 0.0
    for row in rows:
        with model.without(tokens=left_out.own(row)):
            expected += loss_of([row]).item()
    assert found == pytest.approx(expected, rel=1e-5)


spans = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=4)


@given(spans, st.integers(0, 9), st.integers(0, 10), st.sampled_from([None, 1, 2]))
def test_a_slice_says_whose_its_tokens_are(
    drawn: list[tuple[int, int]], start: int, stop: int, step: int | None
) -> None:
    kv = random_kv_prefix([((1, 2), (1, 2))], 10, 1.0, torch.Generator().manual_seed(0))
    named_spans = [(at, min(at + size, 10), str(i)) for i, (at, size) in enumerate(drawn)]
    kv.metadata.update(note(named_spans))
    places = range(10)[start:stop:step]
    if not len(places):
        return
    found = tokens_of(kv[start:stop:step].metadata)
    if places.step != 1:
        assert found is None
        return
    of = {name: {*range(at, end)} & {*places} for at, end, name in named_spans}
    expected = {name: {place - start for place in own} for name, own in of.items() if own}
    assert found == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left-out")
    make_training_folder(folder)
    return folder


def with_demonstrations(template: str | None = None, **prefix: Any) -> Any:
    start = {"type": "demonstrations", "path": "data/raw/train.jsonl", "template": template}
    raw = read_yaml(Path("params.yaml"))
    raw["initializations"]["shown"] = start
    raw["sweep"] |= {"initializations": ["shown", "random"], "lengths": [2, 150]}
    raw["kv_prefix"]["max_length"] = 160
    raw["prefix"] |= prefix
    return raw


@pytest.mark.parametrize("template", [None, "{{ key }}: {{ value }}"])
def test_each_virtual_token_is_noted_with_its_example(folder: Path, template: str | None) -> None:
    with working_in(folder):
        before = (folder / "params.yaml").read_text()
        try:
            write_params(folder, with_demonstrations(template, leave_one_out=True))
            params = load_params()
            kv_prefix.run(params, "shown")
            kept = KVPrefix.load(paths.KV_PREFIX / "shown" / "prefix.safetensors")
            text = (paths.KV_PREFIX / "shown" / "text.txt").read_text()
            own = tokens_of(kept.metadata)
            assert own is not None
            # A token is a byte, but for the three signs of a turn.
            ids = for_variant.stored_tokens(paths.KV_PREFIX / "shown")["tokens"]
            tokenizer = for_variant.load_tokenizer(paths.MODEL)
            assert len(own) > 1
            assert sum(map(len, own.values())) == len(frozenset().union(*own.values()))
            for name, tokens in list(own.items())[:-1]:
                shown = tokenizer.decode([ids[token] for token in sorted(tokens)])
                number = name.rpartition("-")[2]
                assert shown in text
                assert shown.count(f"{number} km") == (1 if template else 2)
                assert shown.count("km") == (1 if template else 2)
            # Before the first are the signs of the user's turn, which are nobody's.
            assert (min(own[next(iter(own))]) > 0) == (template is None)
            variant = Variant(150, "shown", 0)
            start = kept[:150]
            left_out = train.left_out_of(params, variant, start)
            assert left_out.demonstrations == tokens_of(start.metadata)
            unknown = KVPrefix(start.keys, start.values)
            with pytest.raises(PipelineError, match=r"give initializations\.shown\.template"):
                train.left_out_of(params, variant, unknown)
        finally:
            (folder / "params.yaml").write_text(before)


def test_the_stage_hides_them_in_its_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BegunError(Exception):
        pass

    given: list[Any] = []

    def beginning(*data: Any) -> None:
        given.extend(data)
        raise BegunError

    monkeypatch.setattr(train, "train_prefix", beginning)
    monkeypatch.setattr(train, "TrainingRun", lambda *_: nullcontext(Mock()))
    with working_in(folder):
        before = (folder / "params.yaml").read_text()
        try:
            write_params(folder, with_demonstrations(leave_one_out=True, token_dropout=0.25))
            params = load_params()
            for name in ("shown", "random"):
                kv_prefix.run(params, name)
            with pytest.raises(BegunError):
                train.run(params, Variant(150, "shown", 0))
            left_out = given[-1]
            assert isinstance(left_out, LeftOut)
            assert left_out.token_dropout == 0.25
            kept = KVPrefix.load(paths.KV_PREFIX / "shown" / "prefix.safetensors")
            assert left_out.demonstrations == tokens_of(kept[:150].metadata)
            assert set(left_out.demonstrations) <= set(given[1]["id"])
            # Beside it a start that holds none of them.
            other = Variant(2, "random", 0)
            model = train_together._model(params, other, tiny_model(), ())
            member = train_together._started(params, other, model)
            assert member.left_out == LeftOut(2, 0.25)
        finally:
            (folder / "params.yaml").write_text(before)


def test_a_stretched_prefix_says_no_more_whose_its_tokens_are() -> None:
    from pipeline.prefix import stretched_kv_prefix

    kv = kv_of(prefixed(FROZEN))
    kv.metadata.update(note([(0, 2, "a")]))
    assert DEMONSTRATIONS not in stretched_kv_prefix(kv, 9).metadata
    assert tokens_of(stretched_kv_prefix(kv, 1).metadata) == {"a": {0}}
