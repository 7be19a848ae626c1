"""Rows behind padding that one pass of a model does not bear: each is what it is alone."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.architecture.one_pass import in_one_pass
from pipeline.prefix.injection.cache import PrefixCache
from tests.prefix import indexed
from tests.prefix.test_architectures import padded
from tests.prefix.test_padding import mbart
from tests.prefix.test_refusals import git
from tests.prefix.test_states import GREEDY, P, close, prefixed, tokens

# Gated delta rule, state space, short convolution, both in one layer, windows counted in keys.
KINDS = ("qwen3_next", "mamba2", "lfm2", "falcon_h1", "inkling")
LENGTHS = (3, 7, 5, 3)
ROWS = [tokens(length, seed=length + place) for place, length in enumerate(LENGTHS)]
BATCH = padded(ROWS, "left")
WIDTH = max(LENGTHS)
LABELS = BATCH["input_ids"].masked_fill(BATCH["attention_mask"] == 0, -100)
IMAGE: dict[str, Any] = {"pixel_values": torch.ones(4, 3, 8, 8)}


def after_text(model: PreTrainedModel) -> PrefixModel:
    tuned = PrefixModel(model, PrefixConfig(P)).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(model, tokens(P)))
    return tuned


def by_place() -> PrefixModel:
    """An index that scores keys by their place alone."""
    return after_text(indexed.build("minimax_m3_vl_text"))


# Models that count the places in their cache, so that rows are decoded apart.
APART = {
    "mbart": lambda: after_text(mbart()),
    "git": lambda: after_text(git().eval()),
    "minimax_m3": by_place,
}


def tuned_of(name: str) -> PrefixModel:
    return APART[name]() if name in APART else prefixed(name)


@pytest.mark.parametrize("name", [*KINDS, *APART])
@torch.no_grad()
def test_a_row_in_a_batch_is_the_row_alone(name: str) -> None:
    tuned = tuned_of(name)
    output = tuned(**BATCH, output_hidden_states=True)
    assert type(output) is type(tuned(input_ids=ROWS[0][None]))
    assert bool(output.logits.isfinite().all())
    last = tuned(**BATCH, logits_to_keep=4).logits if name != "git" else output.logits[:, -4:]
    for place, row in enumerate(ROWS):
        alone = tuned(input_ids=row[None], output_hidden_states=True)
        close(output.logits[place, WIDTH - len(row) :], alone.logits[0])
        close(output.hidden_states[1][place, WIDTH - len(row) :], alone.hidden_states[1][0])
        close(last[place, -3:], alone.logits[0, -3:])
    for how in (GREEDY, {**GREEDY, "num_beams": 3, "num_return_sequences": 2}):
        count = how.get("num_return_sequences", 1)
        found = tuned.generate(**BATCH, **how)[:, WIDTH:].split(count)
        for row, written in zip(ROWS, found, strict=True):
            given = {"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]}
            assert written.tolist() == tuned.generate(**given, **how)[:, len(row) :].tolist()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batchs_gradient_is_its_rows(name: str, checkpointing: bool) -> None:
    """The loss is the mean over labels, however rows are grouped."""
    tuned = prefixed(name).train()
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    count = sum(length - 1 for length in LENGTHS)
    alone = sum(tuned(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) for row in ROWS)
    expected = torch.autograd.grad(alone / count, trained)
    if checkpointing:
        tuned.gradient_checkpointing_enable()
    try:
        loss = tuned(**BATCH, labels=LABELS).loss
        found = torch.autograd.grad(loss, trained)
    finally:
        tuned.gradient_checkpointing_disable()
    close(loss, alone / count, 1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 1e-5 * float(theirs.abs().max()))
    with torch.no_grad():
        halved = tuned(**BATCH, labels=LABELS, num_items_in_batch=2 * count).loss
    close(halved, loss / 2, 1e-5)


@pytest.mark.parametrize("name", ["qwen3_next", "inkling", "mbart"])
@torch.no_grad()
def test_a_cache_goes_on(name: str) -> None:
    """Several tokens at once, and other rows of it, after a batch behind padding."""
    tuned = tuned_of(name)
    cache: Any = tuned.new_cache()
    assert isinstance(cache, PrefixCache)
    given = {tuned.cache_name: cache, "use_cache": True}
    tuned(**BATCH, **given)
    assert (cache.apart is None) is (name != "mbart")
    assert cache.get_seq_length() == WIDTH
    chosen, more = torch.tensor([2, 0, 2]), tokens(3, 2, seed=9)
    cache.batch_select_indices(chosen)
    mask = torch.cat([BATCH["attention_mask"][chosen], torch.ones_like(more)], dim=1)
    found = tuned(input_ids=more, attention_mask=mask, **given).logits
    for place, row in enumerate(chosen.tolist()):
        whole = torch.cat([ROWS[row], more[place]])
        close(found[place], tuned(input_ids=whole[None]).logits[0, -2:])
    gap = torch.cat([mask, torch.tensor([[0, 1], [1, 1], [1, 1]])], dim=1)
    with pytest.raises(PrefixError, match="padding between them"):
        tuned(input_ids=more, attention_mask=gap, **given)


@torch.no_grad()
def test_padding_between_a_rows_tokens_is_refused() -> None:
    tuned = prefixed("lfm2")
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    with pytest.raises(PrefixError, match="padding stands between the tokens of a row"):
        tuned(input_ids=tokens(1, 5), attention_mask=mask)


@torch.no_grad()
def test_who_makes_batches_is_told_what_one_pass_bears() -> None:
    tuned = prefixed("mamba2")
    assert (tuned.padding, tuned.padding_group(9, 7)) == ("right", 7)
    with in_one_pass(), pytest.raises(PrefixError, match="padding before a row stands between it"):
        tuned(**BATCH)


def test_the_bare_model_is_itself_again() -> None:
    """What stands in for its forward is gone after a call, and after one that failed."""
    tuned = prefixed("lfm2")
    tuned.generate(**BATCH, **GREEDY)
    assert "forward" not in vars(tuned.frozen_model)
    with pytest.raises(PrefixError):
        tuned(**BATCH, output_attentions=True)
    assert "forward" not in vars(tuned.frozen_model)


WHOLE = {**BATCH, "attention_mask": BATCH["attention_mask"].clone()}
WHOLE["attention_mask"][0] = 0
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "attentions": ({**BATCH, "output_attentions": True}, "output_attentions: .* has none of the"),
    "an input of another kind": ({**BATCH, **IMAGE}, "pixel_values cannot be cut into groups"),
    "some logits and a loss": (
        {**BATCH, "labels": LABELS, "logits_to_keep": 2},
        r"labels \[batch, tokens\] and of all logits",
    ),
    "a row of padding": (WHOLE, "hides every token of a row"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_groups_cannot_give_is_a_sentence(what: str) -> None:
    given, sentence = REFUSED[what]
    with pytest.raises(PrefixError, match=sentence):
        prefixed("lfm2")(**given)


def test_a_loss_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that has more than the labels' mean cannot be made of the groups'."""
    tuned = prefixed("lfm2")
    own = tuned.frozen_model.loss_function
    more = lambda *args, **kwargs: own(*args, **kwargs) + 1.0  # noqa: E731
    monkeypatch.setattr(tuned.frozen_model, "_loss_function", more, raising=False)
    with pytest.raises(PrefixError, match="loss is more than the mean over labels"):
        tuned(**BATCH, labels=LABELS)
