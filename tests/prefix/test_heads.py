"""A head trained beside the prefix, as PEFT trains it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixError, PrefixModel
from tests.conftest import kv_of
from tests.prefix.encoders import build

P = 5
BATCH = {
    "input_ids": torch.arange(10, 26).view(4, 4),
    # PEFT wants to be told that there is no padding.
    "attention_mask": torch.ones(4, 4, dtype=torch.long),
    "labels": torch.tensor([0, 1, 2, 1]),
}


def step_by_step(model: Any) -> list[float]:
    """The losses of six steps of Adam on one batch."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(6):
        loss = model(**BATCH).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_training_goes_as_in_peft(name: str, tmp_path: Path) -> None:
    """From one start, on one batch, losses and what they end in are PEFT's."""
    from peft import PrefixTuningConfig, get_peft_model

    theirs = get_peft_model(
        build(name), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = PrefixModel.from_pretrained(build(name), tmp_path).eval()
    found, expected = step_by_step(ours), step_by_step(theirs)
    assert expected[-1] < expected[0] * 0.8
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_head_answers_while_called_alone(tmp_path: Path) -> None:
    frozen = build("bert")
    bare = frozen(**BATCH).logits
    model = PrefixModel(frozen, PrefixConfig(P, modules_to_save=("classifier",))).eval()
    before = model(**BATCH).logits
    for parameter in model.heads.parameters():
        parameter.add_(1.0)
    after = model(**BATCH).logits
    assert float((after - before).abs().min()) > 0.1
    assert torch.equal(frozen(**BATCH).logits, bare)
    kv_of(model).save(tmp_path / "prefix.safetensors")
    again = PrefixModel(build("bert"), PrefixConfig(P, modules_to_save=("classifier",))).eval()
    kv = KVPrefix.load(tmp_path / "prefix.safetensors")
    assert set(kv.modules) == {"classifier.weight", "classifier.bias"}
    again.load_kv_prefix(kv)
    assert torch.equal(again(**BATCH).logits, after)
    model.detach()
    assert not any(module._forward_hooks for module in frozen.modules())


def test_modules_that_cannot_be_used() -> None:
    with pytest.raises(PrefixError, match="names 'head', but BertForSequenceClassification"):
        PrefixModel(build("bert"), PrefixConfig(P, modules_to_save=("head",)))
    kv = kv_of(PrefixModel(build("bert"), PrefixConfig(P, modules_to_save=("classifier",))))
    other = build("bert", num_labels=4)
    with pytest.raises(PrefixError, match="was it trained for other labels"):
        PrefixModel(other, PrefixConfig(P, modules_to_save=("classifier",))).load_kv_prefix(kv)
