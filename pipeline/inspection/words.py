"""The words of the vocabulary that virtual tokens are nearest to.

A prefix has keys and values and no embeddings, so words are compared by what the frozen model
computes of them in its first layer, at the virtual token's own position: the cosine of the keys
and the cosine of the values, heads together, and their mean, by which words are ranked. A prefix
that is a text's KV cache gives back the text's own words, with a cosine of 1.

Keys depend on their position. Every word is first computed at some position of the prefix; the
words whose keys or whose values are nearest there are then computed at the right one.
"""

from collections.abc import Iterator

import pandas as pd
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import PipelineError
from pipeline.inspection.first_layer import first_layer, stands_alone
from pipeline.prefix import KVPrefix
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import is_decoder_only

_CANDIDATES = 256
# Tokens of one forward pass through the first layer.
_CHUNK = 4096


def nearest_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kv: KVPrefix, most: int
) -> pd.DataFrame:
    """The `most` nearest words of each virtual token.

    Columns: token, rank (from 1), id, word, cosine, key_cosine, value_cosine, and typical, the
    mean cosine of all words, which says what a cosine is worth. Raises PipelineError where the
    first layer has no prefix or is not its tokens' own.
    """
    if not kv.keys or kv.places[0] not in ((None, 0), ("encoder", 0)):
        raise PipelineError(
            "nearest words: the first layer that reads inputs has no prefix, and in no other has a "
            "word keys and values of its own"
        )
    vocabulary = min(model.get_input_embeddings().num_embeddings, len(tokenizer))
    if not stands_alone(model, vocabulary):
        raise PipelineError(
            "nearest words: in the model's first layer the keys and values of a word depend on the "
            "words before it"
        )
    own = [
        normalize(states[0].transpose(0, 1).flatten(1).float().to(input_device(model)), dim=-1)
        for states in (kv.keys, kv.values)
    ]
    words = torch.arange(vocabulary)
    if not is_decoder_only(model):
        # RoBERTa and its kin count positions by it: in a row it would move what follows.
        words = words[words != model.config.pad_token_id]
    candidates, typical = _candidates(model, words, own)
    cosines = _cosines(model, candidates, own)
    return _ranked(tokenizer, candidates.cpu(), cosines.cpu(), typical.cpu(), most)


def words_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Each token as the text that it stands for; one that is no whole character by its name."""
    texts = [str(tokenizer.decode([token])) for token in ids]
    return [
        str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text or not text else text
        for token, text in zip(ids, texts, strict=True)
    ]


def _candidates(
    model: PreTrainedModel, vocabulary: torch.Tensor, own: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each virtual token the ids `[p, n]` nearest by key and by value, and the mean cosine."""
    p = len(own[0])
    best = [(own[0].new_empty(p, 0), torch.empty(p, 0, dtype=torch.long, device=own[0].device))] * 2
    total = own[0].new_zeros(p)
    for ids, states in _vocabulary(model, vocabulary, p):
        for which, (virtual, words) in enumerate(zip(own, states, strict=True)):
            near = virtual @ normalize(words, dim=-1).T
            total += near.sum(1) / (2 * len(vocabulary))
            joined = torch.cat([best[which][0], near], 1)
            listed = torch.cat([best[which][1], ids.expand(p, -1)], 1)
            kept = joined.topk(min(_CANDIDATES, joined.shape[1]), dim=1)
            best[which] = kept.values, listed.gather(1, kept.indices)
    return torch.cat([best[0][1], best[1][1]], 1), total


def _vocabulary(
    model: PreTrainedModel, vocabulary: torch.Tensor, p: int
) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
    """Ids `[n]` of the whole vocabulary, and their keys and values `[n, width]`, chunk by chunk.

    They stand at positions 1 to p-1, side by side: the first position is unlike all others where
    positions are learned.
    """
    first = int(p > 1)
    each = max(1, p - first)
    # The last row goes round to the first words again.
    padded = torch.arange(-(-len(vocabulary) // each) * each) % len(vocabulary)
    rows = vocabulary[padded].reshape(-1, each)
    start = 0
    for some in rows.split(max(1, _CHUNK // p)):
        given = torch.cat([some[:, :1]] * first + [some], 1)
        states = first_layer(model, given)
        count = min(some.numel(), len(vocabulary) - start)
        keys, values = (s[:, first:].flatten(0, 1)[:count] for s in states)
        yield some.flatten()[:count].to(keys.device), (keys, values)
        start += count


def _cosines(
    model: PreTrainedModel, candidates: torch.Tensor, own: list[torch.Tensor]
) -> torch.Tensor:
    """Cosines of keys and values `[2, p, n]` with each candidate in its virtual token's place."""
    found = []
    for rows in candidates.T.split(max(1, _CHUNK // len(candidates))):
        states = first_layer(model, rows)
        pairs = zip(own, states, strict=True)
        found.append(torch.stack([(normalize(s, dim=-1) * v).sum(-1).T for v, s in pairs]))
    return torch.cat(found, dim=2)


def _ranked(
    tokenizer: PreTrainedTokenizerBase,
    candidates: torch.Tensor,
    cosines: torch.Tensor,
    typical: torch.Tensor,
    most: int,
) -> pd.DataFrame:
    rows = []
    mean = cosines.mean(0)
    for token, ids in enumerate(candidates.tolist()):
        # Nearest by key and by value both: once. Of like ones the lower id.
        distinct = {int(i): at for at, i in enumerate(ids)}
        order = sorted(distinct, key=lambda i: (-round(float(mean[token, distinct[i]]), 6), i))
        words = words_of(tokenizer, order[:most])
        for rank, (number, word) in enumerate(zip(order, words, strict=False), start=1):
            at = distinct[number]
            key, value = (float(cosines[which, token, at]) for which in (0, 1))
            rows.append(
                {
                    **{"token": token, "rank": rank, "id": number, "word": word},
                    **{"cosine": float(mean[token, at]), "key_cosine": key, "value_cosine": value},
                    "typical": float(typical[token]),
                }
            )
    return pd.DataFrame(rows)
