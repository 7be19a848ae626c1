"""Tiny tokenizers that begin and end texts, and chat templates that end turns, as known ones do."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<pad>")
BOS, EOS, _, END_OF_TURN, _ = range(len(SPECIALS))

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# A system's turn of its own where there is none, an end of text where all is said.
PHI = (
    "{% if messages[0]['role'] != 'system' %}<start_of_turn>system\nBe kind.<end_of_turn>\n"
    "{% endif %}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
# The day, a variable, and an end by the end of a text.
DATED = (
    "{{ bos_token }}{% if date_string is not defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}{% if enable_thinking is defined and not enable_thinking %} quick"
    "{% endif %}.\n{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEMPLATES = {"gemma": GEMMA, "phi": PHI, "dated": DATED}


def tokenizer_that(
    begins: bool = True, ends: bool = False, template: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that adds BOS before a text, and EOS after it, or not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # A merge: what stands at a boundary is another token when read as one.
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *alphabet, "ĊĊ"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    if begins or ends:
        around = ["<bos>"] * begins + ["$A"] + ["<eos>"] * ends
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(around), special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=template,
    )
