"""What the stages hand to a baseline; each thing is loaded when it is asked for."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from pipeline.schema.placing import Placed

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.prefix import KVPrefix, PrefixModel


class SharedPrompt(Protocol):
    """What stands before every input, within one prompt."""

    @property
    def shared(self) -> list[int]:
        """The tokens before any input."""

    def shared_by(self, splits: "Iterable[Dataset]") -> list[int]:
        """The tokens before every input of these splits."""

    def follow(self, split: "Dataset", shared: Sequence[int]) -> "Dataset":
        """A split's examples as they go on after the shared tokens."""


class FewShotPrompt(SharedPrompt, Protocol):
    """Training examples before an input."""

    @property
    def until(self) -> str | None:
        """What ends an answer besides the end of a turn."""


class MeasureContext(Protocol):
    """What the stage `baselines` has."""

    @property
    def frozen_model(self) -> "PreTrainedModel":
        """The frozen model, in the precision of `evaluate`."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The frozen model's tokenizer."""

    def tokens(self, text: str) -> tuple[list[int], int]:
        """The tokens of a text before every input, and how many of them begin it (BOS)."""

    @property
    def splits(self) -> "list[Dataset]":
        """The tokenized splits of which something is measured, validation among them."""

    def train_examples(self, longest: int | None = None) -> int:
        """How many training examples there are, of up to `longest` tokens."""

    def few_shot(
        self, shots: int, instructions: str | None, seed: int, longest: int | None = None
    ) -> FewShotPrompt:
        """The first training examples of a seeded shuffle before every input.

        Those of more than `longest` tokens are passed over.
        """

    def each_after(
        self, key: str, placed: Placed, text_for: Callable[[str], str]
    ) -> "Callable[[Dataset], Dataset]":
        """What gives a split's examples as they go on after a text that each input has of its own.

        `text_for` gives the text before an input; `key` is the one in params.yaml, for sentences.
        """

    def all_after(self, key: str, placed: Placed, text: str) -> SharedPrompt:
        """The same text before every input."""

    def start(self, initialization: str, length: int) -> "KVPrefix":
        """The prefix that a variant of an initialisation trains from, with the seed 0.

        Of the layers and kinds that `prefix` names.

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """

    @property
    def starts_always_visible(self) -> bool:
        """Whether sliding-window layers see it from any distance."""

    def room_before(self, prompt: SharedPrompt) -> int | None:
        """The tokens that the longest input leaves free for what stands before it.

        None when the model names no limit.
        """

    def free_positions(self) -> int:
        """The tokens of context that every example measured leaves free.

        Raises PipelineError when the model names no limit, or when there are none.
        """


class Pretrained(Protocol):
    """A language model on disk, and where and in which precision to load it."""

    @property
    def folder(self) -> Path:
        """Where it lies, with its tokenizer."""

    @property
    def stored_dtype(self) -> "torch.dtype":
        """The dtype of the weights on disk."""

    def load(self, dtype: str | None = None) -> "PreTrainedModel":
        """The model in evaluation mode, no weight of which takes a gradient.

        `dtype` stands in place of the precision asked for. Raises PipelineError when there is none.
        """

    def start(self, model: "PrefixModel") -> "KVPrefix":
        """The prefix that a baseline's own starts from (`TrainedBaseline.begins_from`).

        Raises PipelineError or PrefixError when what it is made from is missing or does not fit.
        """

    def at(self, folder: Path) -> Self:
        """The model in another folder, to be loaded alike."""
