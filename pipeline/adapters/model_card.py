"""The model card of an exported prefix: what it is, what it was trained on, how to load it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from tabulate import tabulate

from pipeline.config import Params
from pipeline.config.shown import as_yaml, shown_params
from pipeline.metrics.table import METRICS
from pipeline.storage.records import read_json, read_jsonl
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

_TEMPLATES = Path(__file__).parent / "templates"


def model_card(params: Params, name: str, adapter_config: Mapping[str, Any]) -> str:
    """The card as Markdown with the front matter that hubs read.

    Its two code blocks run as they are, once `adapter` names the folder: they answer the first
    example of `report.split`, and the card says what the evaluation answered.
    """
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["python"] = _python
    template = environment.from_string(
        (_TEMPLATES / "model_card.md.jinja").read_text(encoding="utf-8")
    )
    return template.render(_facts(params, name, adapter_config))


def _facts(params: Params, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    trained = name not in params.baselines
    tokens, layers, heads = (
        int(config[key]) for key in ("num_virtual_tokens", "num_layers", "num_attention_heads")
    )
    example = _first_prediction(params, name)
    revision = config["revision"]
    parameters = tokens * layers * 2 * int(config["token_dim"])
    facts = {
        "name": name,
        "trained": trained,
        "tokens": tokens,
        "layers": layers,
        "heads": heads,
        "head_size": int(config["token_dim"]) // heads,
        "parameters": parameters,
        "bytes": 4 * parameters,
        "base_model": config["base_model_name_or_path"],
        "revision": revision,
        "revision_argument": f", revision={_python(revision)}" if revision else "",
        "dtype": params.evaluate.dtype,
        "model": as_yaml(params.model.model_dump()),
        "data": as_yaml(params.data.model_dump()),
        "task": as_yaml(params.task.model_dump()),
        "examples": _examples(),
        "training": shown_params(params, ("train", "prefix")) if trained else "",
        "metrics": _metrics(params, name),
        "chosen_by": METRICS[params.report.sort_by].title,
        "max_new_tokens": params.evaluate.max_new_tokens,
        "prompt_code": _prompt_code(params, str(example.get("input", "..."))),
        "example": example.get("prediction"),
    }
    if trained:
        variant = Variant.parse(name)
        start = params.initializations[variant.initialization]
        facts |= {"initialization": variant.initialization, "seed": variant.seed}
        facts |= {"start_type": start.type}
        facts["training"] += as_yaml({"initialization": start.model_dump()})
    return facts


def _python(value: Any) -> str:
    """Text, or a mapping of texts, as Python source with double quotes, which JSON's is too."""
    return json.dumps(value, ensure_ascii=False)


def _prompt_code(params: Params, text: str) -> str:
    """Python that makes `batch` of the tokens that the task makes of a text."""
    if not params.task.use_chat_template:
        return (
            f"text = {_python(text)}\n"
            'batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")'
        )
    turns = []
    if params.task.system_prompt is not None:
        turns.append({"role": "system", "content": params.task.system_prompt})
    turns.append({"role": "user", "content": text})
    lines = "".join(f"    {_python(turn)},\n" for turn in turns)
    return (
        f"messages = [\n{lines}]\n"
        "batch = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        ")"
    )


def _first_prediction(params: Params, name: str) -> dict[str, Any]:
    path = paths.EVALUATE / name / "predictions.jsonl"
    if not path.exists():
        return {}
    return next((r for r in read_jsonl(path) if r["split"] == params.report.split), {})


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
