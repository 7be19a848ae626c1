"""A prefix as a folder for llama.cpp: its state file, what that is, and how it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.serving.llama_cpp.gguf import gguf_file
from pipeline.serving.llama_cpp.launching import ServerOptions, started
from pipeline.serving.llama_cpp.placeholders import ordinary_tokens
from pipeline.serving.llama_cpp.prefixes import (
    chosen_prefixes,
    load_frozen,
    named_prefixes,
)
from pipeline.serving.llama_cpp.refusals import refuse_beyond_context, refuse_cache_type
from pipeline.serving.llama_cpp.state_format import VERSIONS
from pipeline.serving.llama_cpp.verification import Verified, verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_text
from pipeline.workspace import paths

STATE, ABOUT, README = "prefix.bin", "prefix.json", "README.md"


def export_llama_cpp(
    params: Params,
    name: str,
    folder: Path,
    gguf: Path | None,
    options: ServerOptions,
    *,
    version: int | None = None,
    replace: bool = False,
) -> tuple[str, Verified]:
    """As `write_llama_cpp`, with the prefix named as of `named_prefixes`.

    Raises PipelineError when something else is in `folder` and `replace` is not set, too.
    """
    if folder.is_file():
        raise PipelineError(f"{folder}: is a file; name a folder")
    holds_other = folder.exists() and any(folder.iterdir()) and not (folder / ABOUT).exists()
    if holds_other and not replace:
        raise PipelineError(f"{folder}: holds other files; name a new folder, or add --force")
    named = named_prefixes(params, [name])
    return next(iter(named)), write_llama_cpp(params, named, folder, gguf, options, version)


def write_llama_cpp(
    params: Params,
    named: Mapping[str, str | Path],
    folder: Path,
    gguf: Path | None,
    options: ServerOptions,
    version: int | None = None,
) -> Verified:
    """Write the folder of one prefix, all or nothing, in place of what is there.

    Returns what was verified before.

    Args:
        params: of the project whose prefix it is.
        named: as of `chosen_prefixes`, of one.
        folder: that is written.
        gguf: the model file that the state is for, which is run for the verification; None for
            the file that `model.source: wheel` names.
        options: what the server that restores it is started with.
        version: LLAMA_STATE_SEQ_VERSION of that server; None for the verified one's.

    Raises:
        PipelineError: for what llama.cpp cannot hold, and for a GGUF file of another model.
        PrefixError: for a prefix that is missing or does not fit.
    """
    refuse_cache_type(options.cache_type)
    if version is not None and version not in VERSIONS:
        raise PipelineError(f"--state-version: {version} is none of {VERSIONS}")
    frozen = load_frozen(params)
    ordinary = ordinary_tokens(load_tokenizer(paths.MODEL))
    (chosen,) = chosen_prefixes(params, named, frozen, ordinary)
    refuse_beyond_context(chosen.name, len(chosen.kv), options.context)
    with gguf_file(params.model, gguf) as file, started(file, options) as server:
        verified = verify(server, frozen, ordinary)
    with atomic_folder(folder) as aside:
        write_state(chosen.kv, aside / STATE, chosen.placeholders, verified, version)
        about = {
            "name": chosen.name,
            "num_virtual_tokens": len(chosen.kv),
            "begins_text": chosen.kv.begins_text,
            "prefix_sha256": chosen.sha256,
            "placeholder_ids": list(chosen.placeholders),
            "cache_type": verified.form.cache_type,
            "flash_attention": not verified.form.transposed,
            "streams": verified.form.streams,
            "state_version": version or verified.form.version,
            "keys": verified.order.told,
            "keys_differ_by": verified.order.keys,
            "values_differ_by": verified.order.values,
        }
        write_json(aside / ABOUT, about)
        write_text(aside / README, _readme(about, verified))
    return verified


def _readme(about: dict[str, Any], verified: Verified) -> str:
    flash = "on" if about["flash_attention"] else "off"
    kind, slots, tokens = about["cache_type"], about["streams"], about["num_virtual_tokens"]
    bos = "without a BOS token" if about["begins_text"] else "as the tokenizer gives it"
    return f"""# {about["name"]} for llama.cpp

`{STATE}` is the state of one sequence: {tokens} virtual tokens at positions 0 to {tokens - 1}.
{verified.sentence[0].upper() + verified.sentence[1:]}.

```sh
llama-server --model MODEL.gguf --slot-save-path . --parallel {slots} --no-kv-unified \\
  --ctx-size {2048 * slots} --cache-type-k {kind} --cache-type-v {kind} --flash-attn {flash}
curl -X POST 'http://127.0.0.1:8080/slots/0?action=restore' -d '{{"filename": "{STATE}"}}'
curl http://127.0.0.1:8080/completion -d '{{"id_slot": 0, "cache_prompt": true, "prompt": [...]}}'
```

The prompt is a list of tokens: `placeholder_ids` of `{ABOUT}`, and then those of the input, {bos}.
Restore before each request, and take no answer whose `timings.cache_n` is not {tokens}: the prefix
was lost, and the placeholders were read as words. In C, `llama_state_seq_load_file` reads the file.
"""
