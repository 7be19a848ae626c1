"""The folder that vLLM serves prefixes from: connector, prefixes, chat template, and a card."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.config import Params
from pipeline.data.chat import Chat
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix
from pipeline.prefix.starts.beginning import tokens_before
from pipeline.serving.vllm.card import vllm_card
from pipeline.serving.vllm.chat_template import plain_template, with_placeholders
from pipeline.serving.vllm.command import TEMPLATE, TESTED_WITH, TRANSFER
from pipeline.serving.vllm.placeholders import told_apart
from pipeline.serving.vllm.selected import model_config, read_prefixes
from pipeline.serving.vllm.tokens import Alphabet, alphabet_of, as_text
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import read_json, write_json, write_text
from pipeline.workspace import paths
from pipeline.workspace.checksums import sha256_of

MANIFEST = "prefixes.json"
_TEMPLATES = Path(__file__).parent / "templates"
_ALONE = ("prefix_connector.py", "prefix_requests.py")


def write_vllm_folder(
    params: Params,
    chosen: Mapping[str, str | Path],
    folder: Path,
    base_model: str | None = None,
) -> None:
    """Write the folder of prefixes, all or nothing.

    `chosen` are prefixes as `pipeline.inference.selection.choose_prefix` gives them, by the names
    that clients know them by; `base_model` is what the card calls the model. Raises PipelineError
    for what vLLM cannot serve (`pipeline.serving.vllm.refusals`).
    """
    prefixes = read_prefixes(params, chosen)
    tokenizer = load_tokenizer(paths.MODEL)
    chat = Renderer(params.task, tokenizer).chat if params.task.use_chat_template else None
    settings = paths.MODEL / "generation_config.json"
    generation = read_json(settings) if settings.exists() else {}
    alphabet = alphabet_of(tokenizer, model_config(), generation, chat)
    _refuse_single_tokens(prefixes, alphabet)
    bos = str(tokenizer.bos_token) if tokens_before(tokenizer) else ""
    with atomic_folder(folder) as aside:
        (aside / "prefixes").mkdir()
        digests = {name: _saved(kv, aside / _file(name)) for name, kv in prefixes.items()}
        ids = told_apart({n: (digests[n], len(kv)) for n, kv in prefixes.items()}, alphabet.ids)
        texts = {n: as_text(tokenizer, ids[n]) for n in prefixes} if alphabet.is_written else {}
        manifest = {
            "tested_with": TESTED_WITH,
            "bos": bos,
            "prefixes": {
                name: {
                    "file": _file(name),
                    "sha256": digests[name],
                    "text": texts.get(name),
                    "begins_text": kv.begins_text,
                    "ids": list(ids[name]),
                }
                for name, kv in prefixes.items()
            },
        }
        write_json(aside / MANIFEST, manifest)
        write_json(aside / "kv_transfer_config.json", TRANSFER)
        if texts:
            begins = [name for name, kv in prefixes.items() if kv.begins_text]
            template = (
                with_placeholders(plain_template(bos), texts, date="", without_bos=begins, bos=bos)
                if chat is None
                else _template(chat, begins, texts)
            )
            write_text(aside / TEMPLATE, template)
        for file in _ALONE:
            shutil.copy(_TEMPLATES / file, aside)
        write_text(aside / "README.md", vllm_card(params, aside, prefixes, base_model))


def _file(name: str) -> str:
    return f"prefixes/{name}.safetensors"


def _saved(kv: KVPrefix, path: Path) -> str:
    """Write a prefix; the SHA-256 of its file."""
    kv.save(path)
    return sha256_of(path)


def _refuse_single_tokens(prefixes: Mapping[str, KVPrefix], alphabet: Alphabet) -> None:
    for name, kv in prefixes.items():
        if len(kv) == 1 and not alphabet.is_written:
            raise PipelineError(
                f"vllm: '{name}' has one virtual token, and the tokenizer no special token to "
                "spare for it: any prompt may begin with the one that would stand for it; use two "
                "or more"
            )


def _template(chat: Chat, begins: Collection[str], texts: Mapping[str, str]) -> str:
    """The model's own template, after the placeholders; `begins` are prefixes that begin a text."""
    return with_placeholders(
        chat.own_template,
        texts,
        date=chat.date,
        system=chat.messages(chat.system),
        variables=chat.variables,
        without_bos=begins if chat.begins_text else (),
        bos=str(chat.tokenizer.bos_token or ""),
    )
