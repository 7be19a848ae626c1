"""Which task the tokenized splits are for."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.records import read_json, write_json

_FILE = "task.json"


@dataclass(frozen=True)
class TaskType:
    """`task.type`, a classifier's labels in the order of its logits, and the token that ends a
    target where that is not the tokenizer's own end of a text."""

    name: str = "causal_lm"
    labels: tuple[str, ...] = ()
    end: int | None = None

    @property
    def is_classification(self) -> bool:
        """Whether a head tells labels apart, where otherwise text is written."""
        return self.name in ("seq_cls", "token_cls")

    def save(self, splits: Path) -> None:
        """Write task.json beside the splits; causal language modelling, the usual, has none."""
        if self != CAUSAL_LM:
            end = {} if self.end is None else {"end": self.end}
            write_json(splits / _FILE, {"type": self.name, "labels": list(self.labels), **end})


CAUSAL_LM = TaskType()


def task_of(splits: Path) -> TaskType:
    """The task that tokenized splits are for."""
    if not (splits / _FILE).exists():
        return CAUSAL_LM
    found = read_json(splits / _FILE)
    return TaskType(found["type"], tuple(found["labels"]), found.get("end"))
