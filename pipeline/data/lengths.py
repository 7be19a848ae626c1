"""How long the examples of a split are, 8 bytes an example."""

from array import array

import numpy as np

from pipeline.data.example import TokenizedExample


class Lengths:
    """The tokens of input and target of each example."""

    def __init__(self) -> None:
        self._inputs, self._targets = array("i"), array("i")

    def add(self, example: TokenizedExample) -> None:
        """Count one example."""
        self._inputs.append(example["target_start"])
        self._targets.append(len(example["input_ids"]) - example["target_start"])

    def __len__(self) -> int:
        return len(self._inputs)

    def statistics(self) -> dict[str, float]:
        """The number of examples, and tokens of input and target (mean, p95, max)."""
        inputs, targets = np.asarray(self._inputs), np.asarray(self._targets)
        return {
            "examples": len(inputs),
            **_spread("input_tokens", inputs),
            **_spread("target_tokens", targets),
            "tokens_max": int((inputs + targets).max()),
        }


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    ordered = np.sort(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    mean = round(int(ordered.sum(dtype=np.int64)) / len(ordered), 2)
    return {f"{name}_mean": mean, f"{name}_p95": int(p95), f"{name}_max": int(ordered[-1])}
