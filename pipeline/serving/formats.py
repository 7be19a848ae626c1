"""The formats of `python -m pipeline export`: a table with a row each.

A row's function imports what it needs when it is called: the command line lists the formats without
torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params
from pipeline.config.task import refuse_other_tasks
from pipeline.errors import PipelineError

Write = Callable[[Params, Sequence[str], Path, str | None], Sequence[str]]
"""Writes the prefixes that names name into a folder, all or nothing; returns what each is called.

Names are as `pipeline.inference.selection` takes them; the last argument is what a card calls the
frozen model, None for what params.yaml does.
"""


@dataclass(frozen=True)
class Format:
    """A form in which prefixes leave.

    Attributes:
        title: what the folder then holds, in a sentence's words.
        marker: the file by which a folder of this format is known, and replaced without asking.
        several: whether one folder holds several prefixes.
        write: what writes it.
    """

    title: str
    marker: str
    several: bool
    write: Write


def _peft(
    params: Params, names: Sequence[str], folder: Path, base_model: str | None
) -> Sequence[str]:
    from pipeline.adapters.export import write_adapter
    from pipeline.inference.selection import choose

    name = choose(params, names[0])
    write_adapter(params, name, folder, base_model)
    return [name]


def _cache(
    params: Params, names: Sequence[str], folder: Path, base_model: str | None
) -> Sequence[str]:
    from pipeline.adapters.cache_format import write_cache
    from pipeline.inference.selection import choose

    name = choose(params, names[0])
    write_cache(params, name, folder, base_model)
    return [name]


def _vllm(
    params: Params, names: Sequence[str], folder: Path, base_model: str | None
) -> Sequence[str]:
    from pipeline.serving.vllm.folder import write_vllm_folder
    from pipeline.serving.vllm.selected import named_prefixes

    chosen = named_prefixes(params, names)
    write_vllm_folder(params, chosen, folder, base_model)
    return list(chosen)


FORMATS = {
    "peft": Format("a PEFT adapter", "adapter_config.json", False, _peft),
    "vllm": Format("a folder for vLLM", "prefix_connector.py", True, _vllm),
    "cache": Format("a KV cache for transformers", "cache.safetensors", False, _cache),
}


def export_prefixes(
    params: Params,
    names: Sequence[str],
    folder: Path,
    format_name: str,
    base_model: str | None,
    *,
    replace: bool,
) -> str:
    """Write prefixes in a format of the table, with a card; returns what to tell the person.

    Raises PipelineError when something else is in `folder` and `replace` is not set, for several
    prefixes in a format of one, and, as PrefixError, for what the format cannot hold.
    """
    refuse_other_tasks(params.task, "export")
    chosen = FORMATS[format_name]
    if len(names) > 1 and not chosen.several:
        several = " or ".join(name for name, row in FORMATS.items() if row.several)
        raise PipelineError(
            f"--variant: --format {format_name} holds one prefix, and {len(names)} are named; "
            f"export each to a folder of its own, or use --format {several}"
        )
    if folder.is_file():
        raise PipelineError(f"{folder}: is a file; name a folder")
    holds_other = folder.exists() and any(folder.iterdir())
    if holds_other and not replace and not (folder / chosen.marker).exists():
        raise PipelineError(f"{folder}: holds other files; name a new folder, or add --force")
    written = chosen.write(params, names, folder, base_model)
    return f"{folder}: {', '.join(written)} as {chosen.title}, with a model card"
