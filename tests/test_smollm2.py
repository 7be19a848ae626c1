"""SmolLM2 itself: a prefix trained here gives the same text in PEFT, and the reverse."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
from tests.conftest import ROOT

pytestmark = pytest.mark.real

QUESTIONS = [
    f"{field}: {value}\nname: {name}\n\nWhat is the {field}?"
    for name in ("Alba", "Berlin", "Cusco", "Delhi")
    for field, value in (
        ("area", f"{len(name) * 37} sq km"),
        ("river", f"the {name} river"),
        ("founded", f"{1100 + 73 * len(name)}"),
        ("height", f"{len(name) * 101} m"),
        ("mayor", f"J. {name}son"),
    )
]
ANSWERS = [question.split(": ")[1].split("\n")[0] for question in QUESTIONS]


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    """The default frozen model, fetched once and kept in pytest's cache."""
    cache = request.config.cache
    assert cache is not None
    path = Path(cache.mkdir("smollm2")) / "model"
    if not (path / "config.json").exists():
        subprocess.run(
            [sys.executable, "-c", BARE, str(path), *_of_development()], cwd=ROOT, check=True
        )
    return path


BARE = """
import sys
folder, *hidden = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden))
from pathlib import Path
from pipeline.config import load_params
from pipeline.sources.model import fetch_model
fetch_model(load_params().model, Path(folder))
"""


def _of_development() -> list[str]:
    """What only requirements-dev.lock pins: `make repro` has none of it."""
    lines = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    return [line.split("==")[0].replace("-", "_") for line in lines if "==" in line]


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def greedy(model: Any, tokenizer: Any, questions: list[str] = QUESTIONS) -> list[str]:
    """The text after each question; those of one length are rows of one batch, without padding."""
    lengths: dict[int, list[str]] = {}
    for question in questions:
        lengths.setdefault(len(tokenizer.encode(question)), []).append(question)
    texts: dict[str, str] = {}
    for length, group in lengths.items():
        batch = tokenizer(group, return_tensors="pt")
        ids = model.generate(
            **batch, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        texts |= dict(zip(group, tokenizer.batch_decode(ids[:, length:]), strict=True))
    return [texts[question] for question in questions]


def test_the_same_text_in_peft_and_back(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    assert len(QUESTIONS) == 20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    corpus = (ROOT / "corpora" / "reading_records.txt").read_text()
    model = PrefixModel(load(folder), PrefixConfig(num_virtual_tokens=16))
    model.load_kv_prefix(kv_prefix_from_text(model.frozen_model, tokenizer, corpus, 16))
    bare = greedy(model.frozen_model, tokenizer, QUESTIONS[:3])
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=5e-3)
    examples = [
        {
            "input_ids": tokenizer.encode(
                f"{question} {question.split(': ')[1].split(chr(10))[0]}"
            ),
            "target_start": len(tokenizer.encode(question)),
        }
        for question in QUESTIONS[:8]
    ]
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = TargetLoss(model)(examples)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    ours = greedy(model, tokenizer)
    assert ours[:3] != bare

    model.save_pretrained(tmp_path / "ours")
    theirs = PeftModel.from_pretrained(load(folder), tmp_path / "ours").eval()
    assert greedy(theirs, tokenizer) == ours
    theirs.save_pretrained(tmp_path / "theirs")
    back = PrefixModel.from_pretrained(load(folder), tmp_path / "theirs").eval()
    assert greedy(back, tokenizer) == ours
