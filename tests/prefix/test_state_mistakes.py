"""What cannot be done with a prefix of states is said in a sentence that is right for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from tests.prefix.recurrent import BASE, build

NAME = "qwen3_next"
TEXT = torch.arange(5, 13)


def prefixed(**config: Any) -> PrefixModel:
    return PrefixModel(build(NAME), PrefixConfig(**{"num_virtual_tokens": len(TEXT), **config}))


def loaded(without: str = "", **config: Any) -> PrefixModel:
    kv = kv_prefix_from_tokens(build(NAME), TEXT)
    kv.states.pop(without, None)
    model = prefixed(**config)
    model.load_kv_prefix(kv)
    return model


STATES = ("state",)
BOTH = kv_prefix_from_tokens(build(NAME), TEXT)


def throughout() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**BASE, "num_hidden_layers": 1}))


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "a kind that is no tuple": (
        lambda: prefixed(kinds="state"),
        "kinds is 'state'; give a tuple of different ones of attention, state, or None",
    ),
    "frozen tokens of states": (
        lambda: prefixed(kinds=STATES, num_frozen_tokens=2),
        "num_frozen_tokens is 2; it is of keys and values, of which this prefix has none",
    ),
    "dropout of states": (
        lambda: prefixed(kinds=STATES, prefix_dropout=0.1),
        "prefix_dropout is 0.1; it is of keys and values, of which this prefix has none",
    ),
    "visibility of states": (
        lambda: prefixed(kinds=STATES, prefix_always_visible=True),
        "prefix_always_visible is True; it is of keys and values, of which this prefix has none: "
        "leave it False",
    ),
    "kinds that the layers have not": (
        lambda: prefixed(kinds=("attention", "state"), layers=(0,)),
        "kinds names 'attention', but none of layers [0] has it: name one of 1 too",
    ),
    "no kinds": (lambda: BOTH.of_kinds(()), "kinds is (); name at least one of attention, state"),
    "no layers": (lambda: BOTH.of_layers(()), "layers is (); name at least one of 0, 1"),
    "a hybrid's prefix in a model that attends throughout": (
        lambda: PrefixModel(throughout(), PrefixConfig(len(TEXT))).load_kv_prefix(BOTH),
        "the prefix has states, and keys and values for layers [1] alone, where the model attends "
        "in every layer; it was made for another model",
    ),
    "another length": (
        lambda: loaded(num_virtual_tokens=4),
        "has 8 virtual tokens, the model's configuration 4; compute it anew",
    ),
    "a state that is missing": (lambda: loaded("0.conv"), "the prefix has no state 0.conv"),
}


@pytest.mark.filterwarnings("ignore:the prefix was made with")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake: str) -> None:
    attempt, sentence = MISTAKES[mistake]
    with pytest.raises(PrefixError) as told:
        attempt()
    assert sentence in str(told.value)


def test_layers_are_chosen_in_any_order() -> None:
    kv = KVPrefix((torch.zeros(1, 2, 4), torch.ones(1, 2, 4)), (torch.zeros(1, 2, 4),) * 2)
    chosen = kv.of_layers((1, 0))
    assert chosen.layers == (0, 1)
    assert torch.equal(chosen.keys[1], kv.keys[1])


def test_keys_and_values_alone_are_cut_where_states_are_not() -> None:
    with pytest.raises(PrefixError, match=r"slice it \(kv\[:p\]\)"):
        loaded(num_virtual_tokens=4, kinds=("attention",))


def test_nothing_is_advised_for_peft_that_it_cannot_hold(tmp_path: Path) -> None:
    """Keys and values of a model that attends in some layers alone are no adapter either."""
    for kinds in (None, STATES, ("attention",)):
        with pytest.raises(PrefixError) as told:
            prefixed(kinds=kinds).save_pretrained(tmp_path)
        assert str(told.value).endswith("use KVPrefix.save")


def test_a_model_without_states_is_told_that_it_has_none(model: LlamaForCausalLM) -> None:
    with pytest.raises(PrefixError, match="the model has attention alone"):
        PrefixModel(model, PrefixConfig(4, kinds=STATES))
