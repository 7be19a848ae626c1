"""A prefix learns a teacher's predictions: they are kept once, exactly, and compared in chunks."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import load_from_disk
from ruamel.yaml import YAML
from transformers import PreTrainedModel

from benchmarks.distilled_memory import peaks
from pipeline.config import load_params
from pipeline.config.evaluate import NO_TEACHER
from pipeline.data.context_prompt import ContextPrompt
from pipeline.data.rendering import Renderer
from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import load_split
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS, with_predictions
from pipeline.errors import PipelineError
from pipeline.evaluation.measure import measure_splits
from pipeline.evaluation.taught import distances
from pipeline.loss import distillation, states
from pipeline.loss.distillation import DistillationLoss, compared
from pipeline.loss.output_layer import output_layer_of
from pipeline.models.first_tokens import first_tokens
from pipeline.models.for_baseline import ForBaseline
from pipeline.models.prefixed import prefixed_model
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixModel,
    kv_prefix_from_tokens,
    random_kv_prefix,
)
from pipeline.stages import teach, train
from pipeline.sweep.variants import Variant
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.progress import TrainingResult
from pipeline.training.together import train_all
from pipeline.training.training import Training
from pipeline.workspace import paths
from tests.conftest import Workspace, tiny_model
from tests.faults.training_folder import make_training_folder, working_in, write_params
from tests.prefix.architectures import build

VOCABULARY = 260
TEXT = "A record names a field and gives its value. Answer with the value alone.\n"


def plain_loss(
    logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor, k: int, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of docs/distillation.md by torch's functions; `logits`, `teacher` `[n, v]`."""
    log_q = torch.log_softmax(logits, -1)
    log_p, ids = teacher.topk(k)
    divergence = F.kl_div(log_q.gather(1, ids), log_p, log_target=True, reduction="none").sum(1)
    if k < logits.shape[1]:
        # All other tokens are one class.
        rest = torch.ones_like(log_q).scatter(1, ids, 0).bool()
        p, q = ((t.exp() * rest).sum(1) for t in (teacher, log_q))
        divergence = divergence + p * (p / q).log()
    cross_entropy = F.cross_entropy(logits, targets, reduction="sum")
    return (1 - share) * cross_entropy + share * divergence.sum(), divergence.sum()


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_loss_and_gradient_are_those_of_torch(k: int, share: float) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 40, dtype=torch.float64)).requires_grad_()
    teacher = torch.log_softmax(3 * torch.randn(7, 40, dtype=torch.float64), -1)
    targets = torch.randint(40, (7,))
    expected, divergence = plain_loss(logits, targets, teacher, k, share)
    (slope,) = torch.autograd.grad(expected, logits)
    log_p, ids = teacher.topk(k)
    sums, gradient = compared(logits.detach(), targets, ids, log_p, share)
    torch.testing.assert_close(sums[1], divergence)
    torch.testing.assert_close((sums * torch.tensor([1 - share, share])).sum(), expected)
    torch.testing.assert_close(gradient, slope)


def example(draw: torch.Generator, source: int, targets: int, k: int) -> dict[str, Any]:
    """Random tokens, and a random teacher's top k at the target's."""
    ids = torch.randint(4, VOCABULARY, (source + targets,), generator=draw)
    teacher = torch.log_softmax(torch.randn(targets, VOCABULARY, generator=draw), -1).topk(k)
    return {
        "input_ids": ids.tolist(),
        "target_start": source,
        TEACHER_IDS: teacher.indices.int().numpy(),
        TEACHER_LOG_PROBS: teacher.values.numpy(),
    }


def prefixed(frozen: PreTrainedModel, length: int = 3) -> PrefixModel:
    model = PrefixModel(frozen, PrefixConfig(length))
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, length, 0.5, draw))
    return model


def gradients(model: PrefixModel, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.encoder.parameters())))


@pytest.mark.parametrize("kind", ["packed", "padded", "capped"])
def test_a_chunk_at_a_time_gives_what_all_logits_give(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = tiny_model()
    if kind == "capped":
        # What the output layer gives are not the logits yet.
        frozen = build("gemma2", {"final_logit_softcapping": 3.0})
    draw = torch.Generator().manual_seed(2)
    examples = [example(draw, 4 + i, 2 + i, 8) for i in range(4)]
    model = prefixed(frozen)
    if kind == "padded":
        monkeypatch.setattr(DistillationLoss, "packs", lambda self, tokens: False)
    loss_of = DistillationLoss(model, 0.7)
    assert (loss_of.layer is None) == (kind == "capped")
    monkeypatch.setattr(states, "_ROWS_OF_A_CPU", 5)
    monkeypatch.setattr(distillation, "_ROWS_IN_CACHE", 2)
    loss = loss_of(examples, 0.5)
    found = gradients(model, loss)
    logits, targets = [], []
    for one in examples:
        ids = torch.tensor([one["input_ids"]])
        start = one["target_start"]
        logits.append(model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1])
        targets.append(ids[0, start:])
    whole, at = torch.cat(logits), torch.cat(targets)
    k_ids = torch.cat([torch.tensor(one[TEACHER_IDS]) for one in examples]).long()
    log_p = torch.cat([torch.tensor(one[TEACHER_LOG_PROBS]) for one in examples])
    # A teacher with these top k, whatever its other tokens get.
    rest = ((1 - log_p.exp().sum(1)) / (VOCABULARY - 8)).log()[:, None].expand(-1, VOCABULARY)
    teacher = rest.scatter(1, k_ids, log_p)
    log_q = torch.log_softmax(whole, -1)
    known = F.kl_div(log_q.gather(1, k_ids), log_p, log_target=True, reduction="sum")
    others = torch.ones_like(log_q).scatter(1, k_ids, 0.0)
    p, q = ((t.exp() * others).sum(1) for t in (teacher, log_q))
    divergence = known + (p * (p / q).log()).sum()
    cross_entropy = F.cross_entropy(whole, at, reduction="sum")
    expected = 0.5 * (0.3 * cross_entropy + 0.7 * divergence)
    torch.testing.assert_close(loss, expected)
    for own, other in zip(found, gradients(model, expected), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    measured = loss_of.measured(examples)
    assert measured == pytest.approx((cross_entropy.item(), divergence.item()), rel=1e-5)


def test_no_logits_of_all_positions_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = tiny_model()
    layer = output_layer_of(frozen.requires_grad_(False))
    assert layer is frozen.lm_head
    rows: list[int] = []

    def note(_: Any, __: Any, output: torch.Tensor) -> None:
        if output.shape[-1] == VOCABULARY:
            rows.append(output.shape[-2])

    layer.register_forward_hook(note)
    monkeypatch.setattr(states, "_ROWS_OF_A_CPU", 5)
    draw = torch.Generator().manual_seed(2)
    model = prefixed(frozen)
    loss_of = DistillationLoss(model, 1.0)
    rows.clear()
    loss_of([example(draw, 4, 9, 3) for _ in range(3)]).backward()
    assert sum(rows) == 27
    assert max(rows) == 5
    # The model itself is as it was.
    assert frozen(input_ids=torch.zeros((1, 2), dtype=torch.long)).logits.shape[-1] == VOCABULARY


def test_the_memory_of_a_batch_is_that_of_a_chunk() -> None:
    """At every size of batch less than half of its logits, of which the plain loss holds two."""
    vocabulary, few, many = 16_000, 512, 1024
    plain, distilled = zip(*(peaks(vocabulary, count) for count in (few, many)), strict=True)
    logits = 4 * vocabulary * many
    assert plain[1] > 2 * logits
    assert distilled[1] < 0.5 * logits
    # Twice the positions take hardly more.
    assert distilled[1] - distilled[0] < 0.1 * logits


RULES = Variant(2, "corpus", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage before `teach`, and a teacher that keeps all of the vocabulary."""
    folder = tmp_path_factory.mktemp("taught")
    make_training_folder(folder)
    (folder / "texts" / "rules.txt").write_text(TEXT)
    edited(folder, top_k=VOCABULARY)
    return folder


@pytest.fixture
def inside(folder: Path) -> Iterator[Path]:
    with working_in(folder):
        yield folder


def edited(folder: Path, weight: float = 1.0, **teacher: Any) -> None:
    """`params.yaml` with a teacher and the objective that goes by it."""
    with working_in(folder):
        params = YAML(typ="safe").load(Path("params.yaml").read_text())
    params["teachers"] = {"rules": {"path": "texts/rules.txt", **teacher}}
    params["evaluate"] = {"splits": ["test"], "max_new_tokens": 4, "teacher": NO_TEACHER}
    params["train"]["objective"] = {
        **{"type": "distillation", "teacher": "rules"},
        **{"path": "data/teachers/rules", "weight": weight},
    }
    write_params(folder, params)


def taught_bytes() -> dict[str, bytes]:
    root = paths.TEACHERS / "rules"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_teacher_is_the_model_with_the_text_in_its_context(inside: Path) -> None:
    edited(inside, top_k=VOCABULARY)
    teach.run(load_params(), "rules")
    frozen = load_frozen_model(paths.MODEL, load_params().train)
    tokenizer = load_tokenizer(paths.MODEL)
    split = load_from_disk(str(paths.TOKENIZED / "splits" / "validation"))
    taught = load_from_disk(str(paths.TEACHERS / "rules" / "validation"))
    assert taught["id"][:] == split["id"][:]
    for row, predicted in zip(split, taught, strict=True):
        turns = [
            {"role": "system", "content": TEXT.strip()},
            {"role": "user", "content": row["input"]},
        ]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before = tokenizer.encode(prompt, add_special_tokens=False)
        target = row["input_ids"][row["target_start"] :]
        with torch.no_grad():
            logits = frozen(torch.tensor([before + target])).logits[0, len(before) - 1 : -1]
        expected = torch.log_softmax(logits, -1).topk(VOCABULARY)
        assert np.allclose(predicted["log_probs"], expected.values, atol=1e-4)
        likeliest = [ids[0] for ids in predicted["token_ids"]]
        assert likeliest == expected.indices[:, 0].tolist()


def test_a_prefix_of_the_teachers_own_text_is_at_no_distance(inside: Path) -> None:
    edited(inside, top_k=VOCABULARY)
    params = load_params()
    teach.run(params, "rules")
    frozen = load_frozen_model(paths.MODEL, params.train)
    renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
    prompt = ContextPrompt("teachers.rules", params.teachers["rules"], renderer)
    shared = prompt.shared(TEXT)
    splits = train.read_splits(RULES, params.train.objective)
    rows = []
    for row in splits["validation"]:
        ids = prompt.input_ids(TEXT, row)
        assert ids[: len(shared)] == shared
        own = ids[len(shared) :]
        target = row["input_ids"][row["target_start"] :]
        rows.append({**row, "input_ids": own + target, "target_start": len(own)})
    model = prefixed_model(frozen, kv_prefix_from_tokens(frozen, shared))
    loss_of = DistillationLoss(model, 1.0)
    distance = loss_of.measured([as_arrays(row) for row in rows])[1]
    assert distance == pytest.approx(0.0, abs=2e-5)
    model.detach()
    without = prefixed_model(frozen, None)
    far = DistillationLoss(without, 1.0).measured([as_arrays(row) for row in splits["validation"]])
    without.detach()
    assert far[1] > 5e-4


@pytest.mark.parametrize("is_packed", [True, False])
def test_measurement_has_the_distance_from_the_teacher(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_packed: bool
) -> None:
    edited(inside, top_k=VOCABULARY, splits=["test", "train", "validation"])
    raw = YAML(typ="safe").load(Path("params.yaml").read_text())
    raw["evaluate"]["teacher"] = "data/teachers/rules"
    write_params(inside, raw)
    params = load_params()
    assert params.metrics[:3] == ["loss", "perplexity", "kl"]
    if is_packed:
        teach.run(params, "rules")
    else:
        why = "for the test"
        monkeypatch.setattr(PrefixModel, "why_not_packed", lambda *_, **__: why)
    model = prefixed(load_frozen_model(paths.MODEL, params.evaluate), 2)
    tokenizer = load_tokenizer(paths.MODEL)
    measure_splits(model, tokenizer, params.evaluate, folder=tmp_path, max_tokens=99)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    loss_of = DistillationLoss(model, 1.0)
    for split in ("test", "validation"):
        rows = with_predictions(
            load_split(paths.TOKENIZED / "splits", split), paths.TEACHERS / "rules", split
        )
        nats = [loss_of.measured([as_arrays(row)])[1] for row in rows]
        own = [line for line in lines if line["split"] == split]
        assert [line["kl"] for line in own] == pytest.approx(nats, rel=1e-4, abs=1e-5)
        assert [line["taught_tokens"] for line in own] == [line["target_tokens"] for line in own]
        targets = sum(line["target_tokens"] for line in own)
        assert metrics[split]["kl"] == pytest.approx(sum(nats) / targets, rel=1e-3)
    model.detach()


def test_the_text_where_its_teacher_has_it_is_at_no_distance(inside: Path, tmp_path: Path) -> None:
    """And what a variant starts from is measured as it is."""
    edited(inside, top_k=VOCABULARY, splits=["test", "train", "validation"])
    raw = YAML(typ="safe").load(Path("params.yaml").read_text())
    raw["evaluate"] |= {"teacher": "data/teachers/rules", "metrics": []}
    text = {"type": "in_context", "path": "texts/rules.txt", "max_tokens": None}
    raw["baselines"] = {
        "as_taught": {**text, "role": "system"},
        "among_words": {**text, "role": "user"},
        "cut": {**text, "role": "system", "max_tokens": 9},
        "first": text,
        "start": {"type": "untrained", "path": "data/kv_prefix/corpus", "length": 3},
    }
    write_params(inside, raw)
    params = load_params()
    teach.run(params, "rules")
    context = ForBaseline(params)
    found: dict[str, Any] = {}
    for name, definition in params.baselines.items():
        (before,) = definition.choices(context)
        model = prefixed_model(context.frozen_model, before.kv)
        measure_splits(
            model,
            context.tokenizer,
            params.evaluate,
            folder=tmp_path / name,
            max_tokens=4096,
            follow=before.follow,
            stored=definition.stored(before.kv),
        )
        model.detach()
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    # Of a model that is drawn at random the text changes little.
    assert found["as_taught"]["test"]["kl"] == pytest.approx(0, abs=5e-7)
    for other in ("among_words", "cut", "first", "start"):
        assert found[other]["test"]["kl"] > 1e-6
    assert found["cut"]["context_tokens"] < found["as_taught"]["context_tokens"]
    start = first_tokens(paths.KV_PREFIX / "corpus", 3, context.frozen_model)
    assert found["start"]["context_tokens"] == 3
    numbers = sum(tensor.numel() for tensor in (*start.keys, *start.values))
    assert found["start"]["stored_bytes"] == 4 * numbers


def test_a_target_that_ends_otherwise_is_compared_up_to_there() -> None:
    draw = torch.Generator().manual_seed(2)
    whole = [example(draw, 4, 3, 5), example(draw, 5, 2, 5)]
    logits = torch.randn(5, VOCABULARY, generator=draw)
    found = distances(lambda: logits, whole)
    # One more token at the end of the first, one fewer at that of the second.
    ends = [{**whole[0], "input_ids": [*whole[0]["input_ids"], 7]}, dict(whole[1])]
    ends[1]["input_ids"] = ends[1]["input_ids"][:-1]
    others = torch.cat([logits[:3], logits[:1], logits[3:4]])
    (first, three), (_, one) = (pair for pair in distances(lambda: others, ends) if pair)
    assert (three, one) == (3, 1)
    assert found[0] == (pytest.approx(first), 3)


def as_arrays(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: np.array(row[name]) for name in (TEACHER_IDS, TEACHER_LOG_PROBS)}


@pytest.mark.parametrize("role", [None, "user"])
def test_a_killed_teacher_goes_on_with_the_same_bytes(
    inside: Path, monkeypatch: pytest.MonkeyPatch, role: str | None
) -> None:
    monkeypatch.setattr(teach, "_EXAMPLES", 3)
    edited(inside, top_k=5, role=role)
    params = load_params()
    teach.run(params, "rules")
    whole = taught_bytes()
    shutil.rmtree(paths.TEACHERS)
    computed = teach._computed
    done: list[int] = []

    def stopping(*given: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return computed(*given)

    monkeypatch.setattr(teach, "_computed", stopping)
    with pytest.raises(KeyboardInterrupt):
        teach.run(params, "rules")
    assert not paths.TEACHERS.exists() or not any(paths.TEACHERS.iterdir())
    # Of the shards that were kept one is damaged.
    (first, *_) = sorted(paths.CHECKPOINTS.glob("teacher-rules-*/*.safetensors"))
    first.write_bytes(first.read_bytes()[:40])
    again: list[int] = []

    def counting(*given: Any) -> Any:
        again.append(1)
        return computed(*given)

    monkeypatch.setattr(teach, "_computed", counting)
    teach.run(params, "rules")
    assert taught_bytes() == whole
    # Of four shards of train and two of validation one was whole.
    assert len(again) == 5
    assert not list(paths.CHECKPOINTS.glob("teacher-rules-*/*"))


def test_rows_of_self_study_have_a_text_of_their_own(inside: Path) -> None:
    study = Path("data") / "self_study" / "handbook"
    study.mkdir(parents=True, exist_ok=True)
    texts: dict[tuple[str, str], str] = {}
    for split in ("train", "validation"):
        ids = load_from_disk(str(paths.TOKENIZED / "splits" / split))["id"][:]
        texts |= {(split, row): f"Chunk {place // 2} of {split}." for place, row in enumerate(ids)}
        lines = [json.dumps({"id": row, "context": texts[split, row]}) for row in ids]
        (study / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    edited(inside, top_k=4)
    params = load_params()
    of_study = params.teachers["rules"].model_copy(update={"path": str(study)})
    teach.run(params.model_copy(update={"teachers": {"rules": of_study}}), "rules")
    taught = load_from_disk(str(paths.TEACHERS / "rules" / "train"))
    split = load_from_disk(str(paths.TOKENIZED / "splits" / "train"))
    frozen = load_frozen_model(paths.MODEL, params.train)
    renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
    prompt = ContextPrompt("teachers.rules", of_study, renderer)
    for place in (0, 3):
        row = split[place]
        before = prompt.input_ids(texts["train", row["id"]], row)
        target = row["input_ids"][row["target_start"] :]
        with torch.no_grad():
            logits = frozen(torch.tensor([before + target])).logits[0, len(before) - 1 : -1]
        expected = torch.log_softmax(logits, -1).topk(4).values
        assert np.allclose(taught[place]["log_probs"], expected, atol=1e-4)
    (study / "train.jsonl").write_text(json.dumps({"id": "another", "context": "A text."}) + "\n")
    with pytest.raises(PipelineError, match="has no row"):
        teach.run(params.model_copy(update={"teachers": {"rules": of_study}}), "rules")


def trained(
    folder: Path, *sizes: int | None, log_step: Any = lambda *_: None
) -> list[TrainingResult]:
    """Variants of these training sizes, trained together on one frozen model."""
    params = load_params()
    settings = params.train.model_copy(update={"max_steps": 6, "learning_rate": 0.05})
    frozen = load_frozen_model(paths.MODEL, params.train)
    trainings = []
    for size in sizes:
        splits = train.read_splits(Variant(2, "corpus", 0, size), params.train.objective)
        data = splits["train"], splits["validation"]
        checkpoints = CheckpointFolder(folder / str(size), "digest", 2)
        trainings.append(Training(prefixed(frozen, 2), *data, settings, 0, log_step, checkpoints))
    ended: list[PipelineError | None] = []
    train_all(trainings, lambda _, error: ended.append(error))
    for training in trainings:
        training.model.detach()
    assert ended == [None] * len(sizes)
    return [training.result for training in trainings]


def test_trainings_go_by_the_teacher_alone_together_and_after_a_kill(
    inside: Path, tmp_path: Path
) -> None:
    edited(inside, weight=0.5, top_k=VOCABULARY)
    teach.run(load_params(), "rules")
    logged: dict[int, dict[str, float]] = {}
    alone = [
        *trained(tmp_path / "alone", None, log_step=logged.__setitem__),
        *trained(tmp_path / "alone", 4),
    ]
    assert logged[0].keys() == {"validation/loss", "validation/kl"}
    for result in alone:
        kls = [row["validation/kl"] for row in result.history if "validation/kl" in row]
        assert 0 < min(kls) < kls[0]
        assert result.metrics()["validation/initial_kl"] == kls[0]
    for result, other in zip(alone, trained(tmp_path / "both", None, 4), strict=True):
        assert result.columns[-1] == "validation/kl"
        ours, theirs = (
            pd.DataFrame(each.history, columns=result.columns) for each in (result, other)
        )
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-6)

    def killing(step: int, _: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", None, log_step=killing)
    steps: dict[int, dict[str, float]] = {}
    (again,) = trained(tmp_path / "killed", None, log_step=steps.__setitem__)
    assert list(steps) == [5, 6]
    assert again.history == alone[0].history
    assert isinstance(again.prefix, KVPrefix)
    assert isinstance(alone[0].prefix, KVPrefix)
    for own, whole in zip(again.prefix.keys, alone[0].prefix.keys, strict=True):
        assert torch.equal(own, whole)


def test_examples_of_a_smaller_training_bring_their_own_predictions(inside: Path) -> None:
    edited(inside, top_k=3)
    params = load_params()
    teach.run(params, "rules")
    taught = load_from_disk(str(paths.TEACHERS / "rules" / "train"))
    of_id = dict(zip(taught["id"][:], taught["token_ids"][:], strict=True))
    few = train.read_splits(Variant(2, "corpus", 5, 4), params.train.objective)["train"]
    assert few["id"][:] != taught["id"][:4]
    for row, whole in zip(TokenizedRows(few, [TEACHER_IDS]), few, strict=True):
        assert row[TEACHER_IDS].tolist() == whole[TEACHER_IDS] == of_id[whole["id"]]


def test_predictions_of_other_examples_are_refused(inside: Path) -> None:
    edited(inside, top_k=5)
    params = load_params()
    teach.run(params, "rules")
    folder = paths.TEACHERS / "rules"
    shutil.rmtree(folder / "train")
    shutil.copytree(folder / "validation", folder / "train")
    with pytest.raises(PipelineError, match="is of other examples than the tokenized splits"):
        train.run(params, RULES)
    shutil.rmtree(folder)
    with pytest.raises(PipelineError, match="dvc repro teach@rules"):
        train.run(params, RULES)


@pytest.mark.real
def test_the_graph_teaches_before_it_trains(copy: Workspace) -> None:
    (copy.root / "texts" / "rules.txt").write_text(TEXT)
    objective = {"type": "distillation", "teacher": "rules", "path": "data/teachers/rules"}

    def change(params: dict[str, Any]) -> None:
        params["teachers"] = {"rules": {"path": "texts/rules.txt", "top_k": 5}}
        params["train"]["objective"] = objective

    copy.edit(change)
    output = copy.run("dvc", "repro", "train@2-random-0").stdout
    assert output.index("Running stage 'teach@rules'") < output.index("Running stage 'train@")
    metrics = json.loads((copy.root / "data/train/len2-random-seed0/metrics.json").read_text())
    assert metrics["validation/best_kl"] > 0
    taught = copy.root / "data" / "teachers" / "rules"
    assert len(load_from_disk(str(taught / "train"))) == 12
    assert "up to date" in copy.run("dvc", "status", "teach@rules", "train@2-random-0").stdout
    (copy.root / "texts" / "rules.txt").write_text(TEXT * 20)
    refused = copy.pipeline("teach", "rules", check=False)
    assert refused.returncode == 1
    assert "teachers.rules.path: the longest example of train has" in refused.stderr
    assert "positions; shorten the text, or lower task.max_length" in refused.stderr
