"""The formats of `python -m pipeline export`: a table with a row each.

A row's function imports what it needs when it is called: the command line lists the formats without
torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Params
from pipeline.config.task import refuse_other_tasks
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Wanted:
    """What leaves, and how.

    Attributes:
        names: of prefixes, as `pipeline.inference.selection` takes them.
        folder: where to; written all or nothing.
        base_model: what a card calls the frozen model; None for what params.yaml does.
        verify: the frozen model for the other software, in formats that compare it.
    """

    names: Sequence[str]
    folder: Path
    base_model: str | None = None
    verify: Path | None = None


@dataclass(frozen=True)
class Written:
    """What became of it.

    Attributes:
        names: what each prefix is called.
        found: of the other software, before anything was written; None where nothing was tried.
        variants: the variants and imported adapters that it was found with.
        told: what to tell a person.
    """

    names: Sequence[str]
    found: str | None = None
    variants: Sequence[str] = ()
    told: str = ""


@dataclass(frozen=True)
class Format:
    """A form in which prefixes leave.

    Attributes:
        title: what the folder then holds, in a sentence's words.
        marker: the file by which a folder of this format is known, and replaced without asking.
        several: whether one folder holds several prefixes.
        write: what writes it.
        verifies: whether the frozen model's file for the other software may be given.
    """

    title: str
    marker: str
    several: bool
    write: Callable[[Params, Wanted], Written]
    verifies: bool = False


def _peft(params: Params, wanted: Wanted) -> Written:
    from pipeline.adapters.export import write_adapter
    from pipeline.inference.selection import choose

    name = choose(params, wanted.names[0])
    write_adapter(params, name, wanted.folder, wanted.base_model)
    return Written([name])


def _cache(params: Params, wanted: Wanted) -> Written:
    from pipeline.adapters.cache_format import write_cache
    from pipeline.inference.selection import choose

    name = choose(params, wanted.names[0])
    write_cache(params, name, wanted.folder, wanted.base_model)
    return Written([name])


def _vllm(params: Params, wanted: Wanted) -> Written:
    from pipeline.serving.asked import named_prefixes
    from pipeline.serving.vllm.folder import write_vllm_folder

    chosen = named_prefixes(params, wanted.names)
    write_vllm_folder(params, chosen, wanted.folder, wanted.base_model)
    return Written(list(chosen))


def _llama_cpp(params: Params, wanted: Wanted) -> Written:
    from pipeline.serving.asked import named_prefixes
    from pipeline.serving.llama_cpp.export import write_llama_cpp

    chosen = named_prefixes(params, wanted.names)
    verified = write_llama_cpp(params, chosen, wanted.folder, wanted.verify, wanted.base_model)
    variants = [each for each in chosen.values() if isinstance(each, str)]
    return Written(list(chosen), verified.sentence, variants)


FORMATS = {
    "peft": Format("a PEFT adapter", "adapter_config.json", False, _peft),
    "vllm": Format("a folder for vLLM", "prefix_connector.py", True, _vllm),
    "llama.cpp": Format("a state file of llama.cpp", "prefix.json", False, _llama_cpp, True),
    "cache": Format("a KV cache for transformers", "cache.safetensors", False, _cache),
}


def export_prefixes(
    params: Params, wanted: Wanted, format_name: str, *, overwrite: bool
) -> Written:
    """Write prefixes in a format of the table, with a card.

    Raises PipelineError when something else is in the folder and `overwrite` is not set, for
    several prefixes in a format of one, for a file to verify in a format that compares none, and,
    as PrefixError, for what the format cannot hold.
    """
    refuse_other_tasks(params.task, "export")
    chosen, folder = FORMATS[format_name], wanted.folder
    if len(wanted.names) > 1 and not chosen.several:
        several = " or ".join(name for name, row in FORMATS.items() if row.several)
        raise PipelineError(
            f"--variant: --format {format_name} holds one prefix, and {len(wanted.names)} are "
            f"named; export each to a folder of its own, or use --format {several}"
        )
    if wanted.verify is not None and not chosen.verifies:
        verifying = " or ".join(name for name, row in FORMATS.items() if row.verifies)
        raise PipelineError(
            f"--verify: --format {format_name} compares no file of the frozen model; leave it out, "
            f"or use --format {verifying}"
        )
    if folder.is_file():
        raise PipelineError(f"{folder}: is a file; name a folder")
    holds_other = folder.exists() and any(folder.iterdir())
    if holds_other and not overwrite and not (folder / chosen.marker).exists():
        raise PipelineError(f"{folder}: holds other files; name a new folder, or add --force")
    written = chosen.write(params, wanted)
    told = f"{folder}: {', '.join(written.names)} as {chosen.title}, with a model card"
    return replace(written, told=told if written.found is None else f"{written.found}\n{told}")
