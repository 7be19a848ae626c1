"""The frozen model of a new project: the default one, a folder, or one of the Hub."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.load import read_yaml
from pipeline.errors import PipelineError
from pipeline.preflight.context import context_of
from pipeline.preflight.model import writes_no_text

_OF_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What a name says of a model that is not here yet.
_ENCODER_DECODERS = re.compile(r"t5|bart|pegasus|marian|opus-mt|prophetnet|nllb|m2m", re.I)
_ENCODERS = re.compile(r"bert|electra|mpnet|xlm-r|luke|erine|ernie", re.I)
_INSTRUCTED = re.compile(r"instruct|chat|(^|[-_.])it($|[-_.])|assistant|sft|dpo", re.I)


@dataclass(frozen=True)
class ModelChoice:
    """The section `model`, None for that of the default params, and what is known of the model.

    `kind`: decoder, encoder or encoder_decoder. `context`: the positions that it has, None where
    that is not known yet or there is no end. `folder`: where its tokenizer is, if it is here.
    """

    name: str
    section: dict[str, Any] | None
    kind: str
    has_chat_template: bool
    why_chat_template: str
    context: int | None = None
    folder: Path | None = None

    @property
    def told(self) -> str:
        """What it is, and where it comes from."""
        if self.section is None:
            return f"{self.name}, which the first stage fetches"
        is_local = self.section["source"] == "local"
        return str(self.folder) if is_local else f"{self.name} of the Hugging Face Hub"


def model_of(params: Path) -> ModelChoice:
    """That of default params: SmolLM2-135M-Instruct, unless a person has named another there."""
    section = read_yaml(params).get("model") or {}
    if section.get("source") == "local":
        return chosen_model(str(params.parent / section["path"]))
    if section.get("source") == "hub":
        chosen = chosen_model(section["id"])
        return replace(chosen, section={**section, "path": "requirements.lock"})
    why = "the model follows instructions"
    return ModelChoice("SmolLM2-135M-Instruct", None, "decoder", True, why, context=8192)


def chosen_model(said: str) -> ModelChoice:
    """A folder that `save_pretrained` wrote, or an id of the Hub.

    Raises PipelineError for what is neither.
    """
    folder = Path(said).expanduser()
    if folder.is_dir():
        return _local(folder.resolve(), said)
    if folder.exists() or _OF_THE_HUB.fullmatch(said) is None:
        raise PipelineError(
            f"--model: '{said}' is no folder, and no id of the Hugging Face Hub such as "
            "HuggingFaceTB/SmolLM2-360M-Instruct"
        )
    section = {"source": "hub", "path": "requirements.lock", "id": said, "revision": "main"}
    is_chat = _INSTRUCTED.search(said) is not None
    why = (
        f"the model's name says that it {'follows' if is_chat else 'does not follow'} instructions"
    )
    kind = "decoder"
    if not is_chat:
        kind = "encoder_decoder" if _ENCODER_DECODERS.search(said) else kind
        kind = "encoder" if kind == "decoder" and _ENCODERS.search(said) else kind
    return ModelChoice(said, section, kind, is_chat, why)


def _local(folder: Path, said: str) -> ModelChoice:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = "encoder_decoder" if config.get("is_encoder_decoder") else "decoder"
    except (OSError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"--model: '{said}' has no config.json that can be read; name a folder that "
            "save_pretrained wrote"
        ) from error
    kind = "encoder" if kind == "decoder" and writes_no_text(config) else kind
    has_template = _has_chat_template(folder)
    return ModelChoice(
        name=folder.name,
        section={"source": "local", "path": str(folder)},
        kind=kind,
        has_chat_template=has_template,
        why_chat_template=f"the model's tokenizer has {'one' if has_template else 'none'}",
        context=context_of(config),
        folder=folder,
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return bool(tokenizer.get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False
