"""Stands in for `python -m pipeline <stage>` where a test asks only which stages DVC runs.

Started by DVC in place of the interpreter. It writes the stage's outputs without computing them,
unlike any before, so that whatever depends on them has to run too.
"""

import sys
import uuid
from pathlib import Path

FOLDERS = {
    "kv_prefix": ("prefix.safetensors",),
    "train": ("prefix.safetensors", "metrics.json", "history.csv"),
    "evaluate": ("predictions.jsonl", "metrics.json"),
    "baselines": ("predictions.jsonl", "metrics.json"),
    "report": (
        *("summary.csv", "summary.md", "plots/a.png"),
        *("loss_by_length.csv", "loss_curves.csv"),
    ),
}


def main(stage: str, *arguments: str) -> None:
    folder = Path("data", stage)
    if arguments and arguments[0].startswith("--"):
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        length, name, seed = (options[f"--{key}"] for key in ("length", "initialization", "seed"))
        folder /= f"len{length}-{name}-seed{seed}"
    elif arguments:
        folder /= arguments[0]
    for name in FOLDERS[stage]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"unlike any before": "{uuid.uuid4()}"}}\n')


if __name__ == "__main__":
    _, module, *command = sys.argv[1:]
    assert module == "pipeline", sys.argv
    main(*command)
