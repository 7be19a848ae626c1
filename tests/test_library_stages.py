"""What the stages of a library write: prefixes of documents, and what several at once are worth."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from ruamel.yaml import YAML
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.cli.main import main
from pipeline.config import load_params
from pipeline.config.library import Together
from pipeline.errors import DivergedError, PipelineError
from pipeline.library.arrangements import arrangements
from pipeline.models.shared import load_frozen_model
from pipeline.prefix import KVPrefix, PrefixError, PrefixModel
from pipeline.preflight.documents import check_documents
from pipeline.preflight.kinds import check_kinds
from pipeline.stages import library_together, library_tokenize, library_train
from pipeline.standing.last_runs import LastRuns
from pipeline.storage.records import read_json, write_jsonl
from pipeline.training import divergence
from pipeline.training.training import Training
from pipeline.training.validation import target_loss_of
from pipeline.workspace import paths
from tests.conftest import ROOT, tiny_params
from tests.faults.training_folder import working_in, write_params
from tests.hybrids import qwen3_next
from tests.test_library_graph import DOCUMENTS, with_a_library, write_documents

Edit = Callable[[dict[str, Any]], Any]


def run_all(rounds: tuple[Any, ...] = ("alone", "among")) -> None:
    params = load_params()
    for of in rounds:
        for name in DOCUMENTS:
            library_train.run(params, name, of)
    library_together.run(params, "pairs")


def edited(folder: Path, edit: Edit) -> None:
    params = YAML(typ="safe").load((folder / "params.yaml").read_text())
    edit(params)
    write_params(folder, params)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A folder with a library of two documents, whose questions are written by hand."""
    folder = tmp_path_factory.mktemp("library")
    params = tiny_params(model_folder)
    with_a_library(params)
    write_documents(folder)
    write_params(folder, params)
    shutil.copytree(model_folder, folder / paths.MODEL)
    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_together, "log_library", lambda *_: None)
        for name, coast in DOCUMENTS.items():
            rows = [
                {"id": f"{name}-{n}", "question": f"{n} of {name}?", "answer": f"{coast + n} km"}
                for n in range(5)
            ]
            write_jsonl(paths.LIBRARY_STUDY / name / "train.jsonl", rows[:4])
            write_jsonl(paths.LIBRARY_STUDY / name / "validation.jsonl", rows[4:])
            library_tokenize.run(load_params(), name)
        run_all()
    return folder


@pytest.fixture
def inside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(library_together, "log_library", lambda *_: None)
    return folder


def prefix(of: str, name: str) -> KVPrefix:
    return KVPrefix.load(paths.LIBRARY / of / name / "prefix.safetensors")


def test_losses_are_those_of_the_compositions(inside: Path) -> None:
    found = read_json(paths.LIBRARY_TOGETHER / "pairs" / "losses.json")
    frozen = load_frozen_model(paths.MODEL, load_params().library.train)
    split, examples = library_together._questions("kenya")
    assert (split, examples["id"][:]) == ("test", ["test-0"])
    row = next(r for r in found["documents"] if (r["document"], r["trained"]) == ("kenya", "among"))
    orders = [("kenya", "norway"), ("norway", "kenya")]
    assert [tuple(each["prefixes"]) for each in row["each"]] == orders
    for each in ({"prefixes": ["kenya"], "loss": row["own"]}, *row["each"]):
        kvs = [prefix("among", name) for name in each["prefixes"]]
        model = PrefixModel.compose(frozen, kvs).eval()
        assert target_loss_of(model, examples, 4096) == pytest.approx(each["loss"], rel=1e-6)
        model.detach()
    assert row["together"] == pytest.approx(sum(e["loss"] for e in row["each"]) / 2)
    assert row["another's"] != row["own"] != row["nothing"]
    assert [r["trained"] for r in found["mean"]] == ["alone", "among"]


def test_without_a_second_round_a_prefix_stays_as_it_was_trained_alone(inside: Path) -> None:
    both = [(paths.LIBRARY / of / "kenya" / "prefix.safetensors") for of in ("alone", "among")]
    assert both[0].read_bytes() != both[1].read_bytes()
    edited(inside, lambda p: p["library"]["distractors"].update(count=0))
    run_all(("among",))
    assert both[0].read_bytes() == both[1].read_bytes()
    rows = read_json(paths.LIBRARY_TOGETHER / "pairs" / "losses.json")["documents"]
    assert [row["trained"] for row in rows] == ["alone", "alone"]


def test_the_second_round_may_go_on_from_the_first(inside: Path) -> None:
    edited(inside, lambda p: p["library"]["distractors"].update(start="alone"))
    edited(inside, lambda p: p["library"]["train"].update(learning_rate=1e-30))
    library_train.run(load_params(), "kenya", "among")
    for one, other in zip(
        prefix("among", "kenya").keys, prefix("alone", "kenya").keys, strict=True
    ):
        assert one.equal(other)


def test_a_training_that_diverges_names_the_library_s_key(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any loss counts as one that exploded, and the start is not asked for its own.
    monkeypatch.setattr(divergence, "_EXPLODED", 1e-3)
    edited(inside, lambda p: p["library"]["train"].update(learning_rate=1.0))
    monkeypatch.setattr(Training, "begin", lambda training: training.model.train())
    with pytest.raises(DivergedError, match=r"^library\.train\.learning_rate: at step 1 "):
        library_train.run(load_params(), "kenya", "alone")


def test_a_documents_training_drops_tokens(inside: Path) -> None:
    before = prefix("alone", "kenya")
    edited(inside, lambda p: p["library"]["prefix"].update(token_dropout=0.5))
    library_train.run(load_params(), "kenya", "alone")
    assert not torch.equal(prefix("alone", "kenya").keys[0], before.keys[0])


def test_keys_and_values_of_a_hybrid_stand_beside_others(inside: Path) -> None:
    """Its states, which cannot, are left out where params say so, or `check` refuses them."""
    qwen3_next().save_pretrained(paths.MODEL)
    with pytest.raises(PipelineError, match=r"library\.prefix\.kinds: null is for the states"):
        check_kinds(load_params(), paths.MODEL)
    edited(inside, lambda p: p["library"]["prefix"].update(kinds=["attention"]))
    check_kinds(load_params(), paths.MODEL)
    run_all()
    assert prefix("among", "kenya").kinds == ("attention",)
    edited(inside, lambda p: p["library"]["train"].update(compile=True))
    with pytest.raises(PipelineError, match=r"library\.train\.compile: true is for packed rows"):
        check_kinds(load_params(), paths.MODEL)


def test_what_cannot_stand_beside_others_is_refused_before_any_training(
    inside: Path,
) -> None:
    with pytest.raises(PipelineError, match=r"'peru' is not under library\.documents"):
        library_train.run(load_params(), "peru", "alone")
    (inside / "documents" / "kenya.txt").write_text("K")
    short = r"documents.kenya: 'documents/kenya.txt' gives . tokens to start from"
    with pytest.raises(PipelineError, match=short):
        library_train.run(load_params(), "kenya", "alone")
    # And before the model is asked about any of them.
    nothing_ran = LastRuns({}, {})
    with pytest.raises(PipelineError, match=short):
        check_documents(load_params(), len, nothing_ran)
    (inside / "documents" / "kenya.txt").write_text("Kenya")
    check_documents(load_params(), len, nothing_ran)
    shutil.rmtree(paths.LIBRARY_ALONE)
    learned = GPT2Config(vocab_size=260, n_positions=128, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(learned).save_pretrained(paths.MODEL)
    with pytest.raises(PrefixError, match="positions are part of their keys"):
        library_train.run(load_params(), "norway", "alone")
    assert not paths.LIBRARY_ALONE.exists()


def test_arrangements_are_distinct_and_all_where_they_are_few() -> None:
    three = [*"abc"]
    pairs = arrangements("a", three, Together())
    assert pairs == [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]
    many = [f"d{n}" for n in range(30)]
    drawn = arrangements("d7", many, Together(count=4, draws=9))
    assert len(set(drawn)) == 9
    assert all("d7" in order and len(set(order)) == 4 for order in drawn)
    assert drawn == arrangements("d7", many[::-1], Together(count=4, draws=9))
    assert drawn != arrangements("d7", many, Together(count=4, draws=9, seed=1))
    assert len({order.index("d7") for order in drawn}) > 1


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed params beside a folder of documents."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("Über uns.md", "2024.txt", ".hidden"):
        (tmp_path / "texts" / name).write_text("A text.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["library", *arguments])


def test_a_folder_is_listed_and_listed_again(default: Path) -> None:
    before = (default / "params.yaml").read_text()
    assert listed("texts", "--held-out", "texts").exit_code == 0
    library = load_params().library
    assert library.documents == {"document_2024": "texts/2024.txt", "ber_uns": "texts/Über uns.md"}
    assert library.held_out == "texts"
    assert library.distractors.count == 1
    text = (default / "params.yaml").read_text()
    assert text.startswith(before[: before.index("\nlibrary: {}")])
    assert text.endswith(before[before.index("# Saving a training on the way") :])

    edited(default, lambda p: p["library"]["documents"].update(own="elsewhere/own.txt"))
    edited(default, lambda p: p["library"]["prefix"].update(length=9))
    (default / "texts" / "2024.txt").unlink()
    (default / "texts" / "new.txt").write_text("A text.")
    assert listed("texts").exit_code == 0
    library = load_params().library
    assert [*library.documents] == ["own", "new", "ber_uns"]
    assert (library.prefix.length, library.held_out) == (9, "texts")


def test_what_cannot_be_listed_is_told_and_params_stay(default: Path) -> None:
    before = (default / "params.yaml").read_bytes()
    assert "nowhere: is no folder" in listed("nowhere").stderr
    (default / "texts" / "2024.txt").unlink()
    # One document has no other to stand beside it.
    assert "library.distractors.count: 1 others at once" in listed("texts").stderr
    (default / "texts" / "ber_uns.txt").write_text("A text.")
    assert "has the name of texts/ber_uns.txt, ber_uns; rename" in listed("texts").stderr
    assert (default / "params.yaml").read_bytes() == before
