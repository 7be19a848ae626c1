"""`PrefixModel` in transformers' own Trainer: it trains, saves, resumes and loads the prefix."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel
from tests.conftest import kv_of, tiny_model, tiny_tokenizer
from tests.prefix import encoders

pytestmark = pytest.mark.slow

ROWS, TOKENS, P = 16, 8, 4


def tied_model() -> PreTrainedModel:
    return tiny_model(tie_word_embeddings=True, num_hidden_layers=3)


def rows(vocabulary: int = 100) -> dict[str, Any]:
    """Token ids with a column that no model takes."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, vocabulary, (ROWS, TOKENS), generator=draw).tolist()
    return {
        "input_ids": ids,
        "attention_mask": [[1] * TOKENS] * ROWS,
        "text": ["left out"] * ROWS,
    }


def causal() -> Dataset:
    columns = rows()
    return Dataset.from_dict({**columns, "labels": columns["input_ids"]})


def arguments(folder: Path, kind: Any = TrainingArguments, **changes: Any) -> Any:
    return kind(
        **{
            "output_dir": str(folder),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.05,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            **changes,
        }
    )


def fresh(frozen: PreTrainedModel, **config: Any) -> PrefixModel:
    torch.manual_seed(1)
    return PrefixModel(frozen, PrefixConfig(P, **config))


def same(left: PrefixModel, right: PrefixModel) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("config", [{}, {"prefix_projection": True, "num_frozen_tokens": 1}])
def test_it_trains_saves_and_resumes_the_prefix(tmp_path: Path, config: dict[str, Any]) -> None:
    frozen = tied_model()
    before = {key: tensor.clone() for key, tensor in frozen.state_dict().items()}
    model = fresh(frozen, **config)
    start = kv_of(model)
    changes = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    trainer = Trainer(model, arguments(tmp_path, **changes), None, causal(), causal())
    untrained = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < untrained
    assert all(torch.equal(before[key], tensor) for key, tensor in frozen.state_dict().items())

    # The prefix alone is saved; the tied weights of the frozen model would be refused.
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert not [key for key in saved if "frozen_model" in key]

    again = fresh(tied_model(), **config)
    resumed = Trainer(again, arguments(tmp_path), None, causal(), causal())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(again, model)

    loaded = PrefixModel(tied_model(), PrefixConfig(P, **config))
    loaded.load_state_dict(load_file(tmp_path / "checkpoint-4" / "model.safetensors"))
    assert same(loaded, model)
    assert not torch.equal(kv_of(loaded).keys[0], start.keys[0])
    if not config:
        # As a Trainer calls it for models of transformers.
        model.save_pretrained(tmp_path / "a", state_dict={}, is_main_process=False)
        assert not (tmp_path / "a").exists()
        model.save_pretrained(tmp_path / "a", state_dict={}, is_main_process=True)
        adapter = PrefixModel.from_pretrained(tied_model(), tmp_path / "a")
        assert same(adapter, model)


def test_the_loss_is_that_of_the_batches(tmp_path: Path) -> None:
    """Over accumulated batches and smoothed labels: shifted, as a causal model's are."""
    model = fresh(tied_model())
    data = causal()
    batch = {key: torch.tensor(data[key]) for key in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        output = model(**batch)
    logs = {}
    for smoothing in (0.0, 0.2):
        changes = {"max_steps": 1, "per_device_train_batch_size": 8, "save_strategy": "no"}
        changes |= {"label_smoothing_factor": smoothing}
        trainer = Trainer(copy.deepcopy(model), arguments(tmp_path, **changes), None, data)
        assert trainer.label_names == ["labels"]
        trainer.train()
        logs[smoothing] = trainer.state.log_history[0]["loss"]
    assert logs[0.0] == pytest.approx(float(output.loss), abs=1e-4)
    smooth = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.2
    )
    assert logs[0.2] == pytest.approx(float(smooth), abs=1e-3)


def test_checkpointing_takes_the_trainers_keywords(tmp_path: Path) -> None:
    ends = []
    for how in (None, {"every_n_layers": 2}, {"preserve_rng_state": False}):
        model = fresh(tied_model())
        changes = {"activation_checkpointing": how is not None, "save_strategy": "no"}
        changes["activation_checkpointing_kwargs"] = how
        trainer = Trainer(model, arguments(tmp_path, **changes), None, causal())
        trainer.train()
        assert model.is_activation_checkpointing == (how is not None)
        ends.append(kv_of(model).keys[1])
        torch.testing.assert_close(ends[-1], ends[0], rtol=0, atol=1e-5)
    with pytest.raises(PrefixError, match="would recompute layers without the prefix"):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    model.gradient_checkpointing_disable()
    assert not model.is_activation_checkpointing


def test_an_encoder_decoder_generates_its_predictions(tmp_path: Path) -> None:
    frozen = encoders.build("t5", dropout_rate=0.0)
    model = fresh(frozen)
    columns = rows(encoders.VOCABULARY)
    data = Dataset.from_dict({**columns, "labels": [ids[:3] for ids in columns["input_ids"]]})
    changes = {"predict_with_generate": True, "generation_max_length": 5}
    trainer = Seq2SeqTrainer(
        model,
        arguments(tmp_path, Seq2SeqTrainingArguments, **changes),
        DataCollatorForSeq2Seq(tiny_tokenizer(), model=model),
        data,
        data,
    )
    trainer.train()
    predicted = trainer.predict(data.select(range(2)), max_length=5, num_beams=1)
    ids = torch.tensor(columns["input_ids"][:2])
    expected = model.generate(input_ids=ids, max_length=5, num_beams=1)
    assert predicted.predictions[:, : expected.shape[1]].tolist() == expected.tolist()
    model.generation_config = copy.deepcopy(model.generation_config)
    assert frozen.generation_config is model.generation_config


@pytest.mark.parametrize(
    ("task", "labels", "head"),
    [
        ("ForSequenceClassification", {"labels": [0, 1] * (ROWS // 2)}, ("classifier",)),
        (
            "ForQuestionAnswering",
            {"start_positions": [1] * ROWS, "end_positions": [2] * ROWS},
            ("qa_outputs",),
        ),
    ],
)
def test_a_trained_head_is_saved_with_it(
    tmp_path: Path, task: str, labels: dict[str, list[int]], head: tuple[str, ...]
) -> None:
    quiet = {"num_labels": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = fresh(encoders.build("bert", task, **quiet), modules_to_save=head)
    data = Dataset.from_dict({**rows(encoders.VOCABULARY), **labels})
    trainer = Trainer(model, arguments(tmp_path), None, data, data)
    assert set(trainer.label_names) == set(labels)
    start = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < start
    again = fresh(encoders.build("bert", task, **quiet), modules_to_save=head)
    Trainer(again, arguments(tmp_path), None, data).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert same(again, model)
    assert [key for key in model.state_dict() if key.startswith("heads.")]


def test_accelerate_prepares_unwraps_saves_and_loads(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = fresh(tied_model())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    batch = {"input_ids": torch.tensor(rows()["input_ids"][:2])}
    accelerator.backward(prepared(**batch, labels=batch["input_ids"]).loss)
    optimizer.step()
    assert accelerator.unwrap_model(prepared) is model
    accelerator.save_state(str(tmp_path))
    trained = kv_of(model)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    accelerator.load_state(str(tmp_path))
    assert torch.equal(kv_of(model).keys[0], trained.keys[0])


def test_a_state_dict_changes_no_weight_of_the_frozen_model() -> None:
    """Inside another module too; what is missing or too much of the prefix itself is told."""
    model = fresh(tied_model())
    whole = torch.nn.ModuleDict({"inner": model})
    assert whole.state_dict().keys() == {"inner.encoder.embedding", "inner.encoder.sink"}
    before = {key: tensor.clone() for key, tensor in model.frozen_model.state_dict().items()}
    spoilt = {f"frozen_model.{key}": torch.zeros_like(tensor) for key, tensor in before.items()}
    model.load_state_dict({**model.state_dict(), **spoilt})
    whole.load_state_dict(whole.state_dict())
    now = model.frozen_model.state_dict()
    assert all(torch.equal(before[key], tensor) for key, tensor in now.items())
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "encoder.embedding"'):
        model.load_state_dict({"encoder.sink": torch.zeros(0, 1)})
    # Without a prefix the model itself is what is trained and saved.
    assert len(PrefixModel(tied_model()).state_dict()) == len(before)


@pytest.mark.parametrize("how", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
@pytest.mark.parametrize("config", [{}, {"layers": (0,)}, {"modules_to_save": ("classifier",)}])
@torch.no_grad()
def test_a_copy_of_a_model_that_was_used(config: dict[str, Any], how: Any) -> None:
    """It has the class, the prefix, the layers and the head of the model, of its own."""
    has_head = "modules_to_save" in config
    frozen = encoders.build("bert", "ForSequenceClassification") if has_head else tied_model()
    model = fresh(frozen, **config).eval()
    for head in model.heads.parameters():
        head.normal_()
    ids = torch.tensor(rows()["input_ids"][:1])
    expected = model(input_ids=ids).logits
    twin = how(model)
    assert torch.equal(twin(input_ids=ids).logits, expected)
    for parameter in [*model.encoder.parameters(), *model.heads.parameters()]:
        parameter.zero_()
    assert not torch.equal(model(input_ids=ids).logits, expected)
    assert torch.equal(twin(input_ids=ids).logits, expected)
    assert type(twin) is type(model)
    assert isinstance(twin, PrefixModel)
