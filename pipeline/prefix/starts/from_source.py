"""The keys and values of texts as a prefix, for models with an encoder.

Each part starts from what it computes of a text: the encoder from reading a source text, the
decoder from a target text after that source, cross-attention from the encoder's output for the
source. docs/method.md says for each part which text in which place the start is equal to.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.prefix.architecture.parts import evaluating, parts_of, places_of, run
from pipeline.prefix.architecture.routing import AttentionCall, routed
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.files.provenance import provenance
from pipeline.prefix.kv import KVPrefix


def kv_prefix_from_source(
    frozen_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    num_virtual_tokens: int,
    target: str | None = None,
    parts: tuple[str, ...] | None = None,
) -> KVPrefix:
    """The prefix of a source text and, for a decoder, of a target text.

    Args:
        frozen_model: an encoder-decoder, or an encoder alone.
        tokenizer: its tokenizer; texts get its special tokens.
        source: the text that the encoder reads.
        num_virtual_tokens: p; each text has at least as many tokens.
        target: the text that the decoder has written so far; None to take the source again.
        parts: as in `PrefixConfig`.

    Raises:
        PrefixError: when a text is too short.
    """
    read = tokenizer.encode(source)
    written = read if target is None else list(tokenizer(text_target=target)["input_ids"])
    wanted = parts_of(frozen_model, parts)
    texts = {"source": read} | ({"target": written} if "decoder" in wanted else {})
    for name, tokens in texts.items():
        if len(tokens) < num_virtual_tokens:
            raise PrefixError(
                f"the {name} text has {len(tokens)} tokens, fewer than the {num_virtual_tokens} "
                "virtual tokens asked for; use a longer text or a shorter prefix"
            )
    return kv_prefix_from_source_tokens(
        frozen_model, read[:num_virtual_tokens], written[:num_virtual_tokens], parts
    )


@torch.no_grad()
def kv_prefix_from_source_tokens(
    frozen_model: PreTrainedModel,
    source: Sequence[int],
    target: Sequence[int] | None = None,
    parts: tuple[str, ...] | None = None,
) -> KVPrefix:
    """The prefix, float32, of p tokens that the encoder reads and p that the decoder is given.

    The decoder starts, as always, from its own start token, so that the p-th token of `target`
    is not seen; without `target` it is given the source's tokens. Raises PrefixError for parts
    that the model has not.
    """
    wanted = parts_of(frozen_model, parts)
    written = list(source if target is None else target)
    decoder_ids = None
    if frozen_model.config.is_encoder_decoder:
        start = frozen_model.config.decoder_start_token_id
        if start is None:
            raise PrefixError("the model's configuration has no decoder_start_token_id")
        decoder_ids = torch.tensor([[start, *written[: len(source) - 1]]])
    places = places_of(frozen_model, wanted)
    calls: dict[int, list[AttentionCall]] = defaultdict(list)

    def note(call: AttentionCall) -> None:
        calls[id(call.module)].append(call)

    with evaluating(frozen_model), routed(frozen_model, note):
        run(frozen_model, torch.tensor([list(source)]), decoder_ids)
    seen = [calls[id(place.module)][place.call] for place in places]
    kv = KVPrefix(
        tuple(call.key[0].float().clone() for call in seen),
        tuple(call.value[0].float().clone() for call in seen),
        parts=tuple(place.part for place in places),
    )
    kv.metadata.update(provenance(frozen_model))
    digest = hashlib.sha256(str([list(source), written]).encode()).hexdigest()
    kv.metadata["tokens_sha256"] = digest
    return kv
