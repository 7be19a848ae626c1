"""Stands in for `python -m pipeline <stage>` where a test asks only which stages DVC runs.

Started by DVC in place of the interpreter. It writes the stage's outputs without computing them,
unlike any before, so that whatever depends on them has to run too.
"""

import sys
import uuid
from pathlib import Path

FOLDERS = {
    "fetch_model": ("config.json",),
    "fetch_data": ("train.jsonl",),
    "self_study": ("train.jsonl", "validation.jsonl", "statistics.json", "summary.txt"),
    "held_out": ("held_out/test.jsonl",),
    "tokenize": ("splits/train/data.arrow", "statistics.json"),
    "kv_prefix": ("prefix.safetensors",),
    "teach": ("train/data.arrow",),
    "train": ("prefix.safetensors", "metrics.json", "history.csv"),
    "evaluate": ("predictions.jsonl", "metrics.json"),
    "baselines": ("predictions.jsonl", "metrics.json"),
    "in_context": ("predictions.jsonl", "metrics.json"),
    "baseline_start": ("none.txt",),
    "train_baseline": ("weights/adapter_model.safetensors", "metrics.json", "history.csv"),
    "evaluate_baseline": ("predictions.jsonl", "metrics.json"),
    "library_study": ("train.jsonl", "validation.jsonl", "statistics.json"),
    "library_tokenize": ("train/data.arrow",),
    "library_train": ("prefix.safetensors",),
    "library_together": ("losses.md", "losses.json"),
    "inspect": ("starts.csv", "best/facts.json"),
    "report": (
        *("summary.csv", "summary.md", "plots/a.png"),
        *("over_seeds.csv", "over_seeds.md", "report.html", "report.md", "best/README.md"),
        *("loss_by_length.csv", "loss_curves.csv", "scores.csv", "best.json", "../dvc/a.json"),
    ),
}


def main(stage: str, *arguments: str) -> None:
    measuring = ("baselines", "in_context", "evaluate_baseline")
    own = {
        "fetch_model": "model",
        "fetch_data": "raw",
        "tokenize": "tokenized",
        "inspect": "inspection",
    }
    own |= {"teach": "teachers", "held_out": "self_study"}
    written = "evaluate" if stage in measuring else own.get(stage, stage.removesuffix("_baseline"))
    names = [argument for argument in arguments[:1] if not argument.startswith("--")]
    rest = arguments[len(names) :]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    if stage.startswith("library_"):
        step = {"train": options.get("--round", ""), "tokenize": "tokenized"}
        written = "library/" + step.get(stage[8:], stage[8:])
    folder = Path("data", written)
    if stage == "in_context":
        names = [f"in_context_{options['--initialization']}", f"len{options['--length']}"]
    elif "--length" in options:
        names = [f"len{options['--length']}", options["--initialization"]]
    suffixes = (("--seed", "seed"), ("--train-size", "train"), ("--learning-rate", "lr"))
    for key, word in suffixes:
        if key in options:
            names.append(word + options[key])
    if names:
        folder /= "-".join(names)
    for name in FOLDERS[stage]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"unlike any before": "{uuid.uuid4()}"}}\n')


if __name__ == "__main__":
    _, module, *command = sys.argv[1:]
    assert module == "pipeline", sys.argv
    main(*command)
