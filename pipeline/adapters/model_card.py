"""The model card of an exported prefix: what it is, what it was trained on, how to load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment
from tabulate import tabulate
from transformers import PreTrainedTokenizerBase

from pipeline.adapters.prompt_code import as_python, prompt_code
from pipeline.config import Params
from pipeline.config.shown import as_yaml, shown_params
from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.splits import load_split
from pipeline.metrics.table import METRICS
from pipeline.models.tokenizer import load_tokenizer
from pipeline.storage.records import each_of_jsonl, read_json
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

_TEMPLATES = Path(__file__).parent / "templates"


def model_card(
    params: Params,
    name: str,
    adapter_config: Mapping[str, Any],
    begins_text: bool,
    template: str = "model_card.md.jinja",
) -> str:
    """The card as Markdown with the front matter that hubs read.

    Its code blocks run as they are, once they name the folder: they answer the first example of
    `report.split`, and the card says what the evaluation answered. `adapter_config` are sizes and
    names as PEFT calls them, `begins_text` as `KVPrefix.begins_text`.
    """
    facts = _facts(params, name, adapter_config, begins_text)
    return card_template(_TEMPLATES / template).render(facts)


def card_template(path: Path) -> Template:
    """A card's template, which may extend others of its folder."""
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(path.parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["python"] = as_python
    return environment.get_template(path.name)


def _facts(
    params: Params, name: str, config: Mapping[str, Any], begins_text: bool
) -> dict[str, Any]:
    trained = name not in params.baselines
    tokens, layers, heads = (
        int(config[key]) for key in ("num_virtual_tokens", "num_layers", "num_attention_heads")
    )
    numbers = int(config.get("parameters", tokens * layers * 2 * int(config["token_dim"])))
    example = first_prediction(params, name)
    tokenizer = load_tokenizer(paths.MODEL)
    asked = asked_first(params, str(example.get("input", "...")))
    revision = config["revision"]
    facts = {
        "name": name,
        "trained": trained,
        "tokens": tokens,
        "layers": layers,
        "heads": heads,
        "head_size": int(config["token_dim"]) // heads,
        "parameters": numbers,
        "bytes": 4 * numbers,
        "base_model": config["base_model_name_or_path"],
        "revision": revision,
        "revision_argument": f", revision={as_python(revision)}" if revision else "",
        "dtype": params.evaluate.dtype,
        "model": as_yaml(params.model.model_dump()),
        "data": as_yaml(params.data.model_dump()),
        "task": as_yaml(params.task.model_dump()),
        "examples": _examples(),
        "training": _training(params, name) if trained else "",
        "metrics": _metrics(params, name),
        "chosen_by": METRICS[params.report.sort_by].title,
        "max_new_tokens": params.evaluate.max_new_tokens,
        "prompt_code": prompt_code(params.task, tokenizer, asked, begins_text),
        "ends": f", eos_token_id={ends}" if (ends := unknown_ends(params, tokenizer)) else "",
        "example": example.get("prediction"),
    }
    if trained:
        variant = Variant.parse(name)
        start = params.initializations[variant.initialization]
        facts |= {"initialization": variant.initialization, "seed": variant.seed}
        facts |= {"start_type": start.type}
        facts["training"] += as_yaml({"initialization": start.model_dump()})
    return facts


def _training(params: Params, name: str) -> str:
    own = params.train.at(Variant.parse(name).learning_rate)
    return shown_params(params.model_copy(update={"train": own}), ("train", "prefix"))


def asked_first(params: Params, text: str) -> str | Turns:
    """What the first example of `report.split` asks: its text, or its turns."""
    if params.task.messages_column is None:
        return text
    turns: Turns = json.loads(
        load_split(paths.TOKENIZED / "splits", params.report.split)[0]["turns"]
    )
    return turns


def unknown_ends(params: Params, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer; none where the model's own settings name them all."""
    path = paths.MODEL / "generation_config.json"
    listed = read_json(path).get("eos_token_id") if path.exists() else None
    known = set(listed if isinstance(listed, list) else [listed]) - {None}
    end = Renderer(params.task, tokenizer).end_of_target[-1]
    wanted = {*known, tokenizer.eos_token_id, end} - {None}
    return [] if wanted == known else sorted(wanted)


def first_prediction(params: Params, name: str) -> dict[str, Any]:
    """What was answered to the first example of `report.split`; nothing before it is measured."""
    path = paths.EVALUATE / name / "predictions.jsonl"
    if not path.exists():
        return {}
    return next((r for r in each_of_jsonl(path) if r["split"] == params.report.split), {})


def _examples() -> dict[str, Any]:
    path = paths.TOKENIZED / "statistics.json"
    return read_json(path) if path.exists() else {}


def _metrics(params: Params, name: str) -> str:
    """A table: a row a split, for this prefix and for each baseline that is measured."""
    others = [other for other in params.baselines if other != name]
    rows = [
        {"": shown, "split": split, **_scalars(metrics)}
        for shown, folder in [(name, paths.EVALUATE / name)]
        + [(f"{other} (baseline)", paths.EVALUATE / other) for other in others]
        if (folder / "metrics.json").exists()
        for split, metrics in read_json(folder / "metrics.json").items()
        if isinstance(metrics, dict) and split in params.evaluate.measured_splits
    ]
    if not rows:
        return "Not measured yet."
    return str(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4f"))


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    bounds = ("_low", "_high")
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not key.endswith(bounds)
    }
