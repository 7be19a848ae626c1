"""Prefixes of several parts as files and as starts of one another."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_source,
    kv_prefix_from_source_tokens,
    kv_prefix_from_text,
)
from pipeline.prefix.parameters.config import PARTS
from pipeline.prefix.starts.reshaped import stretched_kv_prefix
from tests.conftest import CORPUS, kv_of, tiny_tokenizer
from tests.prefix.encoders import build
from tests.prefix.test_prefix_model import same

TEXT = list(range(10, 18))


def test_a_file_keeps_the_parts(tmp_path: Path) -> None:
    kv = kv_prefix_from_source_tokens(build("t5"), TEXT)
    kv.save(tmp_path / "a.safetensors")
    back = KVPrefix.load(tmp_path / "a.safetensors")
    assert same(back, kv)
    assert back.parts == kv.parts
    assert back.places == [(part, layer) for part in PARTS for layer in (0, 1)]
    with pytest.raises(PrefixError, match="a plain cache serves a decoder alone"):
        back.to_cache()


@settings(max_examples=12, deadline=None)
@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=1, unique=True),
    layers=st.sampled_from([None, (0,), (1,), (0, 1)]),
    projected=st.booleans(),
)
def test_a_model_takes_its_places_of_a_whole_prefix(
    parts: list[str], layers: tuple[int, ...] | None, projected: bool
) -> None:
    model = build("t5")
    whole = kv_prefix_from_source_tokens(model, TEXT)
    config = PrefixConfig(8, parts=tuple(parts), layers=layers, prefix_projection=projected)
    tuned = PrefixModel(model, config)
    tuned.load_kv_prefix(whole)
    kept = kv_of(tuned)
    assert tuple(dict.fromkeys(kept.parts or ())) == tuned.parts == config.parts
    expected = dict(zip(whole.places, whole.keys, strict=True))
    for place, key in zip(kept.places, kept.keys, strict=True):
        assert torch.equal(key, expected[place])
    again = PrefixModel(model, config)
    again.load_kv_prefix(kept)
    assert same(kv_of(again), kept)


def test_a_longer_prefix_keeps_the_parts() -> None:
    kv = kv_prefix_from_source_tokens(build("t5"), TEXT)
    longer = stretched_kv_prefix(kv, 12)
    assert len(longer) == 12
    assert longer.parts == kv.parts
    assert stretched_kv_prefix(kv, 4).parts == kv.parts


def test_texts_start_each_part() -> None:
    model, tokenizer = build("bart", vocab_size=260), tiny_tokenizer()
    kv = kv_prefix_from_source(model, tokenizer, CORPUS, 6, target="A target text.")
    ids = [tokenizer.encode(text)[:6] for text in (CORPUS, "A target text.")]
    assert same(kv, kv_prefix_from_source_tokens(model, *ids))
    # Of one text, the encoder and the decoder take it each.
    assert same(
        kv_prefix_from_text(model, tokenizer, CORPUS, 6),
        kv_prefix_from_source(model, tokenizer, CORPUS, 6),
    )
    with pytest.raises(PrefixError, match="the target text has 5 tokens, fewer than the 6"):
        kv_prefix_from_source(model, tokenizer, CORPUS, 6, target="short")


def test_parts_that_are_not_there() -> None:
    decoder = kv_prefix_from_source_tokens(build("t5"), TEXT, parts=("decoder",))
    with pytest.raises(PrefixError, match="the prefix has none for 'encoder', only for decoder"):
        PrefixModel(build("t5"), PrefixConfig(8)).load_kv_prefix(decoder)
    with pytest.raises(PrefixError, match="parts is \\['head'\\]; give different ones of encoder"):
        PrefixConfig(8, parts=("head",))
    with pytest.raises(PrefixError, match="PEFT prefixes an encoder-decoder's decoder self-att"):
        PrefixModel(build("t5"), PrefixConfig(8)).save_pretrained("never-written")
    assert not Path("never-written").exists()
