"""A prefix as a folder for llama.cpp: its state file, what that is, and how it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.adapters.export import base_model_of
from pipeline.config import Params
from pipeline.models.tokenizer import load_tokenizer
from pipeline.serving.llama_cpp.launching import running
from pipeline.serving.llama_cpp.placeholders import ordinary_tokens
from pipeline.serving.llama_cpp.prefixes import chosen_prefixes, load_frozen
from pipeline.serving.llama_cpp.refusals import refuse_beyond_context
from pipeline.serving.llama_cpp.verification import Verified, verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json, write_text
from pipeline.workspace import paths

STATE, ABOUT, README = "prefix.bin", "prefix.json", "README.md"


def write_llama_cpp(
    params: Params,
    named: Mapping[str, str | Path],
    folder: Path,
    gguf: Path | None = None,
    base_model: str | None = None,
) -> Verified:
    """Write the folder of one prefix, all or nothing, in place of what is there.

    Returns what was verified before.

    Args:
        params: of the project whose prefix it is, whose `serving.llama_cpp` is of the server that
            restores it.
        named: as of `chosen_prefixes`, of one.
        folder: that is written.
        gguf: the model file that the state is for, which is run for the verification; None for
            the server that `serving.llama_cpp` asks for.
        base_model: what the card calls the frozen model; None for what params.yaml does.

    Raises:
        PipelineError: for what llama.cpp cannot hold, and for a GGUF file of another model.
        PrefixError: for a prefix that is missing or does not fit.
    """
    version = params.serving.llama_cpp.state_version
    frozen = load_frozen(params)
    ordinary = ordinary_tokens(load_tokenizer(paths.MODEL))
    (chosen,) = chosen_prefixes(params, named, frozen, ordinary)
    with running(params, gguf) as server:
        _, context = server.slots()
        refuse_beyond_context(chosen.name, len(chosen.kv), context)
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
        called, _ = base_model_of(params, base_model)
        write_text(aside / README, _readme(about, verified, called, context))
    return verified


def _readme(about: dict[str, Any], verified: Verified, base_model: str, context: int) -> str:
    flash = "on" if about["flash_attention"] else "off"
    kind, slots, tokens = about["cache_type"], about["streams"], about["num_virtual_tokens"]
    bos = "without a BOS token" if about["begins_text"] else "as the tokenizer gives it"
    return f"""# {about["name"]} for llama.cpp

`{STATE}` is the state of one sequence: {tokens} virtual tokens at positions 0 to {tokens - 1}.
The model is {base_model} as a GGUF file.
{verified.sentence[0].upper() + verified.sentence[1:]}.

```sh
llama-server --model MODEL.gguf --slot-save-path . --parallel {slots} --no-kv-unified \\
  --ctx-size {context * slots} --cache-type-k {kind} --cache-type-v {kind} --flash-attn {flash}
curl -X POST 'http://127.0.0.1:8080/slots/0?action=restore' -d '{{"filename": "{STATE}"}}'
curl http://127.0.0.1:8080/completion -d '{{"id_slot": 0, "cache_prompt": true, "prompt": [...]}}'
```

The prompt is a list of tokens: `placeholder_ids` of `{ABOUT}`, and then those of the input, {bos}.
Restore before each request, and take no answer whose `timings.cache_n` is not {tokens}: the prefix
was lost, and the placeholders were read as words. In C, `llama_state_seq_load_file` reads the file.
"""
