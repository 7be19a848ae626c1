"""Which prefix a person means: a variant's name, an imported adapter's, the best, or a file."""

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from pipeline.baselines.untrained import UntrainedBaseline
from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix
from pipeline.prefix.architecture.shapes import adapter_shapes
from pipeline.prefix.files.peft_format import CONFIG, load_adapter
from pipeline.storage.records import read_csv
from pipeline.sweep.grid import sweep
from pipeline.sweep.variants import BEST, Variant
from pipeline.workspace import paths


def choose(params: Params, name: str) -> str:
    """The name itself when params.yaml lists it; for "best" the winner of the last report.

    Raises PipelineError when there is no such variant, or no report yet.
    """
    known = [*(variant.name for variant in sweep(params)), *_adapters(params)]
    if name == BEST:
        summary = paths.REPORT / "summary.csv"
        if not summary.exists():
            raise PipelineError(
                f"{summary}: there is no comparison yet that could name the best; run `dvc repro`, "
                f"or name a variant: {_some(known)}"
            )
        table = read_csv(summary)
        if "is_best" not in table:
            raise PipelineError(f"{summary}: does not name the best; run `dvc repro report`")
        name = best_of(table)
    if name not in known:
        raise PipelineError(
            f"'{name}' is no variant of params.yaml; use '{BEST}' or one of: {_some(known)}"
        )
    return name


def best_of(table: pd.DataFrame) -> str:
    """The run that a summary table marks as the best."""
    return str(table.loc[table["is_best"], "name"].iloc[0])


def load_prefix(params: Params, name: str, frozen_model: PreTrainedModel) -> KVPrefix:
    """The prefix of a variant or imported adapter that `choose` returned.

    Raises PrefixError when its file is missing or damaged, or was made for another model.
    """
    if name in _adapters(params):
        return load_adapter(Path(_adapters(params)[name].path), adapter_shapes(frozen_model))
    path = paths.TRAIN / name / "prefix.safetensors"
    if not path.exists():
        raise PipelineError(f"{path}: '{name}' is not trained yet; run `dvc repro`")
    return KVPrefix.load(path)


def choose_prefix(params: Params, name: str) -> str | Path:
    """A prefix file or adapter folder where there is one at `name`, else as `choose`.

    Raises PipelineError where it is neither.
    """
    path = Path(name)
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if path.is_dir() or len(path.parts) > 1 or (path.suffix and not _is_a_variants(name)):
        raise PipelineError(
            f"{name}: there is no prefix there; name a prefix.safetensors, a PEFT adapter's "
            "folder, or a variant of params.yaml"
        )
    return choose(params, name)


def load_chosen(params: Params, chosen: str | Path, frozen_model: PreTrainedModel) -> KVPrefix:
    """The prefix that `choose_prefix` returned.

    Raises PrefixError when its file is missing or damaged, or was made for another model.
    """
    if isinstance(chosen, str):
        return load_prefix(params, chosen, frozen_model)
    if chosen.is_dir():
        return load_adapter(chosen, adapter_shapes(frozen_model))
    return KVPrefix.load(chosen)


def _is_a_variants(name: str) -> bool:
    """Whether it is the name of a variant; that of one at a rate has a dot, as a file's has."""
    try:
        Variant.parse(name)
    except PipelineError:
        return False
    return True


def _adapters(params: Params) -> dict[str, UntrainedBaseline]:
    return {name: b for name, b in params.baselines.items() if b.is_variant}


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
