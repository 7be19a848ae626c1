"""Which task the tokenized splits are for."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.records import read_json, write_json

_FILE = "task.json"


@dataclass(frozen=True)
class TaskType:
    """`task.type`, and a classifier's labels in the order of its logits."""

    name: str = "causal_lm"
    labels: tuple[str, ...] = ()

    @property
    def is_classification(self) -> bool:
        """Whether a head tells labels apart, where otherwise text is written."""
        return self.name in ("seq_cls", "token_cls")

    def save(self, splits: Path) -> None:
        """Write task.json beside the splits; causal language modelling, the usual, has none."""
        if self != CAUSAL_LM:
            write_json(splits / _FILE, {"type": self.name, "labels": list(self.labels)})


CAUSAL_LM = TaskType()


def task_of(splits: Path) -> TaskType:
    """The task that tokenized splits are for."""
    if not (splits / _FILE).exists():
        return CAUSAL_LM
    found = read_json(splits / _FILE)
    return TaskType(found["type"], tuple(found["labels"]))
