"""A random model and tokenizer on disk, small enough that what is around the model is measured."""

from pathlib import Path
from typing import Any

WORDS = 1000


def llama(**changes: Any) -> Any:
    """A random Llama of 2 layers, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": WORDS + 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2**18,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def tokenizer() -> Any:
    """A word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>"]
    words = [*special, *(word(number) for number in range(WORDS))]
    known = {text: index for index, text in enumerate(words)}
    by_word = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    by_word.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=by_word, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def word(number: int) -> str:
    """A word of four letters."""
    return "w" + "".join(chr(97 + number // 26**place % 26) for place in range(3))


def save(folder: Path) -> None:
    """Write both."""
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
