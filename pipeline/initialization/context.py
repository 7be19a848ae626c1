"""What the stages hand to an initialisation; each thing is loaded when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.prefix import KVPrefix, PrefixConfig
    from pipeline.prefix.architecture.shapes import CacheShapes
    from pipeline.prefix.parameters.flat import Shapes


class Rendering(Protocol):
    """How the task renders rows of the data."""

    def demonstrations(self, rows: Sequence[Mapping[str, Any]], template: str | None) -> str:
        """The rows one after another as one text, by a template or as the task renders them."""

    def demonstration_starts(
        self, rows: Sequence[Mapping[str, Any]], template: str | None
    ) -> Iterator[int | None]:
        """The character of that text that each row begins with; None where no more are known."""

    def texts(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The row's input and target."""

    def message(self, text: str) -> str:
        """A text as one user's message, by the chat template."""

    def tokens(self, text: str, is_chat: bool) -> tuple[list[int], int]:
        """The tokens of a text of its own, and how many of them begin it (BOS).

        `is_chat`: it was rendered by the chat template.
        """


class CacheContext(Protocol):
    """What the stage `kv_prefix` has."""

    @property
    def name(self) -> str:
        """The initialisation's key in params.yaml."""

    @property
    def max_length(self) -> int:
        """The tokens of KV cache to compute: `kv_prefix.max_length`."""

    @property
    def use_chat_template(self) -> bool:
        """Whether the task renders rows by the model's chat template."""

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder reads the input and a decoder writes the target."""

    @property
    def rendering(self) -> Rendering:
        """How the task renders rows."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The frozen model's tokenizer."""

    @property
    def frozen_model(self) -> "PreTrainedModel":
        """The frozen model, in the precision of `kv_prefix`."""

    def validation(self, path: Path, most: int, begins_text: bool) -> list[tuple[list[int], int]]:
        """The first examples of a file of raw rows, up to `most`, as the stage `tokenize` does.

        Of each its token ids, without BOS where what stands before it `begins_text`, and where its
        target begins. Raises PipelineError as that stage does.
        """


class StartContext(Protocol):
    """What the stage `train` has for one variant."""

    @property
    def length(self) -> int:
        """The prefix length p in virtual tokens."""

    @property
    def cached(self) -> "KVPrefix":
        """What the stage `kv_prefix` kept of the initialisation."""

    @property
    def cached_tokens(self) -> list[int]:
        """The token ids that `cached` was computed of, where it was."""

    @property
    def chosen_tokens(self) -> "list[int] | None":
        """The token ids that a training of the variant chose to start from, once it is there.

        None where it is yet to choose.
        """

    @property
    def cached_begins_text(self) -> bool:
        """Whether what the stage `kv_prefix` kept begins a text (BOS)."""

    def first_tokens(self) -> "KVPrefix":
        """The prefix of the first `length` of these tokens.

        Cut from `cached`; of a model that keeps states computed anew, since a state that has read
        more tokens says nothing of what it was before.
        """

    @property
    def prefix_config(self) -> "PrefixConfig":
        """The prefix that the variant trains."""

    @property
    def keeps_states(self) -> bool:
        """Whether the frozen model keeps states, and the prefix is to have them."""

    @property
    def kv_shapes(self) -> "Shapes":
        """The shapes of keys and values in every layer that gets a prefix."""

    @property
    def cache_shapes(self) -> "CacheShapes":
        """The same, and those of states, in every layer of the model."""

    @property
    def generator(self) -> "torch.Generator":
        """Random numbers of the variant's seed."""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The frozen model's tokenizer."""

    @property
    def frozen_model(self) -> "PreTrainedModel":
        """The frozen model, as the variant trains against it."""

    @property
    def inputs_begin_text(self) -> bool:
        """Whether `inputs` begin with what begins a text (BOS)."""

    def inputs(self, most: int) -> list[list[int]]:
        """The token ids of the first training inputs, up to `most` of them.

        They are read after what the stage `kv_prefix` kept: without BOS where that begins a text.
        """

    def examples(self, most: int) -> list[list[int]]:
        """The token ids of the first training examples with their targets, up to `most`."""

    def validation(self, most: int) -> list[tuple[list[int], int]]:
        """Token ids of the first validation examples, and where in each its target begins."""
