"""A variant's prefix as a folder that others load: PEFT's adapter and a model card."""

import shutil
from pathlib import Path

from transformers import AutoConfig

from pipeline.adapters.model_card import model_card
from pipeline.config import Params
from pipeline.config.model import HubModel
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, PrefixError
from pipeline.prefix.files.peft_format import CONFIG, WEIGHTS, begins_text, save_adapter
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import read_json, write_json, write_text
from pipeline.workspace import paths

CARD = "README.md"


def write_adapter(params: Params, name: str, folder: Path, base_model: str | None) -> None:
    """Write the prefix and the model card of a variant or imported adapter, all or nothing.

    Raises PrefixError for a prefix that PEFT's format cannot hold.
    """
    with atomic_folder(folder) as aside:
        _write_adapter(params, name, aside, base_model)


def export_best(params: Params, name: str, folder: Path) -> None:
    """As `write_adapter`, for the report.

    A prefix beyond PEFT's format (of some layers, or of unlike shapes), or of another task than
    causal language modelling, keeps this project's own.
    """
    with atomic_folder(folder) as aside:
        try:
            if params.task.type != "causal_lm":
                raise PrefixError(f"the one of task.type: {params.task.type} is not written here")
            _write_adapter(params, name, aside, None)
        except PrefixError as error:
            shutil.copy(paths.TRAIN / name / "prefix.safetensors", aside)
            write_text(
                aside / CARD,
                f"# {name}\n\n`prefix.safetensors` is for `pipeline.prefix.KVPrefix.load`; "
                f"it has no PEFT adapter: {error}.\n",
            )


def _write_adapter(params: Params, name: str, folder: Path, base_model: str | None) -> None:
    baseline = params.baselines.get(name)
    if baseline is not None and baseline.is_variant:
        for file in (CONFIG, WEIGHTS):
            shutil.copy(Path(baseline.path) / file, folder)
    else:
        _write_trained(params, name, folder)
    named, revision = base_model_of(params, base_model)
    config = read_json(folder / CONFIG)
    config |= {"base_model_name_or_path": named, "revision": revision}
    write_json(folder / CONFIG, dict(sorted(config.items())))
    write_text(folder / CARD, model_card(params, name, config, begins_text(folder)))


def read_trained(name: str) -> KVPrefix:
    """The prefix of a variant. Raises PipelineError when it is not trained yet."""
    path = paths.TRAIN / name / "prefix.safetensors"
    if not path.exists():
        raise PipelineError(f"{path}: '{name}' is not trained yet; run `dvc repro`")
    return KVPrefix.load(path)


def _write_trained(params: Params, name: str, folder: Path) -> None:
    kv = read_trained(name)
    if kv.modules:
        raise PrefixError(
            f"{name} has weights of its own for {', '.join(params.prefix.modules_to_save or ())}, "
            "which the model card's code does not load; use PrefixModel.save_pretrained"
        )
    model_config = AutoConfig.from_pretrained(paths.MODEL, local_files_only=True)
    save_adapter(kv, folder, model_config, params.prefix.num_frozen_tokens)


def base_model_of(params: Params, given: str | None = None) -> tuple[str, str | None]:
    """What PEFT loads the frozen model by, and at which revision: what is given, at none."""
    if given:
        return given, None
    if isinstance(params.model, HubModel):
        return params.model.id, read_json(paths.MODEL / paths.SOURCE)["commit"]
    return str(paths.MODEL), None
