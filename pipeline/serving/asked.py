"""What a person asks to be served: prefixes by the names of models, and where."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Params
from pipeline.config.model import HubModel, LocalModel
from pipeline.config.task import refuse_other_tasks
from pipeline.errors import PipelineError
from pipeline.inference.selection import choose, choose_prefix
from pipeline.sweep.grid import sweep
from pipeline.sweep.variants import BEST
from pipeline.workspace import paths


@dataclass(frozen=True)
class Asked:
    """What every engine is given.

    Attributes:
        model_name: the name of the frozen model alone.
        prefixes: of each further name what `pipeline.inference.selection.load_chosen` takes: a
            variant's or imported adapter's name, a prefix's file or a PEFT adapter's folder.
        host: the address to listen on, which `pipeline.serving.access` has let pass.
        port: 0 for any free one.
        api_key: what every request has to bring; None for none.
        checked: is given what an engine was found to compute, before it answers.
    """

    params: Params
    model_name: str
    prefixes: Mapping[str, str | Path]
    host: str
    port: int
    api_key: str | None
    checked: Callable[[str], None] = lambda _: None

    @property
    def variants(self) -> list[str]:
        """Those of the prefixes that are variants or imported adapters of params.yaml."""
        return [each for each in self.prefixes.values() if isinstance(each, str)]


def served_prefixes(params: Params, given: Iterable[str]) -> dict[str, str | Path]:
    """The prefixes to serve, by name: `given` as NAME=PATH, else `serving.prefixes`, else all.

    All are the variants of the sweep that are trained, and `best` where a report names it. Raises
    PipelineError for what is no prefix, a name that is taken, and where there is none at all.
    """
    refuse_other_tasks(params.task, "serve")
    pairs = [_pair(text) for text in given] or list(params.serving.prefixes.items())
    found: dict[str, str | Path] = {}
    for name, value in pairs:
        if name in found:
            raise PipelineError(f"--prefix: '{name}' is given twice; name each prefix once")
        found[name] = choose_prefix(params, value)
    if not pairs:
        found = _trained(params)
    if model_name(params) in found:
        raise PipelineError(
            f"'{model_name(params)}' is the frozen model's name; give the prefix another, or set "
            "serving.model_name"
        )
    return found


def named_prefixes(params: Params, names: Iterable[str]) -> dict[str, str | Path]:
    """What names mean, by what they are called: variants, imported adapters, the best, files.

    Raises PipelineError for one that is not there, or is named twice.
    """
    found: dict[str, str | Path] = {}
    for given in names:
        chosen = choose_prefix(params, given)
        name = chosen if isinstance(chosen, str) else _name_of(chosen)
        if name in found:
            raise PipelineError(f"'{name}' is named twice; name each prefix once")
        found[name] = chosen
    return found


def model_name(params: Params) -> str:
    """What the frozen model alone is called: `serving.model_name`, else by where it is from."""
    model = params.model
    if params.serving.model_name is not None:
        return params.serving.model_name
    if isinstance(model, HubModel):
        return model.id.rpartition("/")[2]
    return Path(model.path).resolve().name if isinstance(model, LocalModel) else model.package


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (found and name and value):
        raise PipelineError(
            f"--prefix: '{text}' is no NAME=PATH; give a name and a variant, a prefix.safetensors "
            "or a PEFT adapter's folder, as in --prefix support=len32-random-seed0"
        )
    return name, value


def _name_of(path: Path) -> str:
    """A file's or folder's name; of a `prefix.safetensors` that of the folder it lies in."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.name == "prefix.safetensors" else path.stem


def _trained(params: Params) -> dict[str, str | Path]:
    names = [
        v.name for v in sweep(params) if (paths.TRAIN / v.name / "prefix.safetensors").exists()
    ]
    if not names:
        raise PipelineError(
            f"{paths.TRAIN}: no variant of params.yaml is trained yet; run `dvc repro`, or name a "
            "prefix with --prefix NAME=PATH"
        )
    found: dict[str, str | Path] = {name: name for name in names}
    if (paths.REPORT / "summary.csv").exists():
        found[BEST] = choose(params, BEST)
    return found
