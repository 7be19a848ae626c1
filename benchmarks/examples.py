"""Random tokens at the lengths of real data.

How long a step takes depends on lengths and not on words, so that WebNLG's lengths
(`webnlg_lengths.csv`, tokens of input and target of 1000 training rows for SmolLM2's tokenizer)
stand in for its text, whose licence keeps it out of this repository.
"""

import csv
import random
from pathlib import Path
from typing import Any

LENGTHS = Path(__file__).with_name("webnlg_lengths.csv")


def examples(count: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` examples of seeded random tokens, in a seeded order of WebNLG's lengths."""
    with LENGTHS.open(encoding="utf-8") as file:
        pairs = [(int(row["input"]), int(row["target"])) for row in csv.DictReader(file)]
    draw = random.Random(seed)
    return [
        {
            # Ordinary tokens: the first hundred are special ones in most vocabularies.
            "input_ids": [draw.randrange(100, vocabulary) for _ in range(shown + target)],
            "target_start": shown,
        }
        for shown, target in draw.choices(pairs, k=count)
    ]


def main() -> None:
    """Rewrite the lengths from a WebNLG `train.jsonl`: `python -m benchmarks.examples FILE`."""
    import json
    import sys

    from transformers import AutoTokenizer

    from pipeline.data.templates import render

    tokenizer = AutoTokenizer.from_pretrained("data/model")
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(0).sample(lines, 1000)]
    with LENGTHS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["input", "target"])
        for row in rows:
            shown = render("{{ triples | join('\n') }}\nText:\n", row, "input")
            target = tokenizer.encode(" " + row["references"][0])
            writer.writerow([len(tokenizer.encode(shown)), len(target) + 1])


if __name__ == "__main__":
    main()
