"""A prefix from elsewhere joins the comparison: `adapters/<name>`, a line in params.yaml."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from transformers import AutoConfig

from pipeline.adapters.cartridges import load_cartridge
from pipeline.config import Params, load_params
from pipeline.config.task import refuse_other_tasks
from pipeline.errors import PipelineError
from pipeline.models.frozen import load_frozen_model
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import PrefixError
from pipeline.prefix.architecture.shapes import adapter_shapes
from pipeline.prefix.files.peft_format import CONFIG, WEIGHTS, load_adapter, save_adapter
from pipeline.schema.compute import Compute, DeviceMap
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_text
from pipeline.workspace import paths

ADAPTERS = Path("adapters")


def join(params: Params, source: Path, name: str | None) -> tuple[str, int]:
    """Copy the adapter and list it under baselines; returns its name and virtual tokens.

    `source` is a folder that PEFT wrote, or a checkpoint of the Cartridges repository, which
    becomes a PEFT adapter. Raises PipelineError for a name that is taken or none, and PrefixError
    when `source` is neither, or for another model. Then neither file nor params have changed.
    """
    refuse_other_tasks(params.task, "import")
    own = source.stem if source.is_file() else source.resolve().name
    name = name or re.sub(r"\W+", "_", own.lower(), flags=re.ASCII)
    _refuse_name(params, name)
    with TemporaryDirectory() as aside:
        folder = _converted(source, Path(aside)) if source.is_file() else source
        try:
            return name, _joined(params, folder, name)
        except PrefixError as error:
            # The person knows of no folder aside.
            raise PrefixError(str(error).replace(str(folder), str(source))) from error


def _converted(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint of the Cartridges repository as a PEFT adapter in `folder`."""
    kv, frozen = load_cartridge(checkpoint)
    config = AutoConfig.from_pretrained(paths.MODEL, local_files_only=True)
    save_adapter(kv, folder, config, frozen)
    return folder


def _joined(params: Params, folder: Path, name: str) -> int:
    tokens = _virtual_tokens(folder, params.device_map)
    before = paths.PARAMS.read_text(encoding="utf-8")
    write_text(paths.PARAMS, _listed(before, name))
    try:
        load_params()
        _copy(folder, ADAPTERS / name)
    except BaseException:
        write_text(paths.PARAMS, before)
        raise
    return tokens


def _refuse_name(params: Params, name: str) -> None:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise PipelineError(
            f"--name: '{name}' is no name for params.yaml; use lower-case letters, digits and _, "
            "a letter first"
        )
    for section in ("baselines", "initializations"):
        if name in getattr(params, section):
            raise PipelineError(f"--name: '{name}' is taken under {section}; choose another")
    if (ADAPTERS / name).exists():
        raise PipelineError(f"--name: {ADAPTERS / name} exists already; choose another name")


def _virtual_tokens(folder: Path, device_map: DeviceMap | None) -> int:
    """The adapter's length, once it is known to fit the frozen model."""
    model = load_frozen_model(paths.MODEL, Compute(), device_map)
    kv = load_adapter(folder, adapter_shapes(model))
    return prefixed_model(model, kv).prefix_length


def _listed(text: str, name: str) -> str:
    """params.yaml with the adapter first among the baselines, all other lines as they are.

    Raises PipelineError when the file is written in a way that cannot be added to.
    """
    path = (ADAPTERS / name).as_posix()
    entry = f"{name}: {{type: adapter, path: {path}}}"
    baselines = YAML().load(text)["baselines"]
    lines = text.splitlines(keepends=True)
    if baselines and not baselines.fa.flow_style():
        # In front of the first: a comment between two sections stands after the last.
        line, column = baselines.lc.key(next(iter(baselines)))
        lines.insert(line, " " * column + entry + "\n")
    elif baselines is not None:
        line, column = baselines.lc.line, baselines.lc.col
        separator = ", " if baselines else ""
        first = lines[line]
        lines[line] = first[: column + 1] + entry + separator + first[column + 1 :]
    added = "".join(lines)
    wanted = YAML(typ="safe").load(text)
    wanted["baselines"] = {name: {"type": "adapter", "path": path}, **(wanted["baselines"] or {})}
    if _parsed(added) != wanted:
        raise PipelineError(f"{paths.PARAMS}: add this line under baselines yourself: {entry}")
    return added


def _parsed(text: str) -> Any:
    try:
        return YAML(typ="safe").load(text)
    except YAMLError:
        return None


def _copy(folder: Path, to: Path) -> None:
    with atomic_folder(to) as aside:
        for file in (CONFIG, WEIGHTS, "README.md"):
            if (folder / file).exists():
                shutil.copy(folder / file, aside)
