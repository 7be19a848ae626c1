"""The prefix that a variant's training starts from."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.data.beginning import following
from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import load_split
from pipeline.models.definition import read_definition
from pipeline.models.first_tokens import KEPT, begins_text, first_tokens, stored_tokens
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel
from pipeline.prefix.architecture.shapes import CacheShapes
from pipeline.prefix.chosen import tokens_in
from pipeline.prefix.parameters.flat import Shapes
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths


def start_prefix(variant: Variant, model: PrefixModel, folder: Path | None = None) -> KVPrefix:
    """The prefix that a variant's training starts from, of its length, for at least its layers.

    Its initialisation is the one that the stage `kv_prefix` was run with, which DVC watches for
    the stage `train`; `folder` is another place of what that stage wrote. Raises PipelineError or
    PrefixError when what it is made from is missing or does not fit.
    """
    return read_definition(folder or _folder(variant)).start(ForVariant(variant, model, folder))


def timed_start(
    variant: Variant, model: PrefixModel, folder: Path | None = None
) -> tuple[KVPrefix, float | None]:
    """The same on the CPU, and the seconds that it took to make.

    None for one that is only read, or drawn as it comes.
    """
    began = time.perf_counter()
    start = start_prefix(variant, model, folder).to("cpu")
    seconds = time.perf_counter() - began
    return start, seconds if read_definition(folder or _folder(variant)).is_made_by_model else None


def trained_start(variant: Variant, model: PrefixModel) -> "ForVariant":
    """What the start of a variant is made from again, once it may be trained.

    What its training chose stands as chosen: a choice takes long, and may round otherwise here.
    """
    path = paths.TRAIN / variant.name / "prefix.safetensors"
    chosen = tokens_in(KVPrefix.load(path).metadata) if path.exists() else None
    return ForVariant(variant, model, chosen_tokens=chosen)


def shows_examples(variant: Variant) -> bool:
    """Whether the virtual tokens that a variant starts from come from training examples."""
    return read_definition(_folder(variant)).shows_examples


@dataclass(frozen=True)
class ForVariant:
    """A `StartContext` of one variant; what no one asks for is not loaded."""

    variant: Variant
    model: PrefixModel
    folder: Path | None = None
    chosen_tokens: list[int] | None = None

    @property
    def _kept(self) -> Path:
        return self.folder or _folder(self.variant)

    @property
    def length(self) -> int:
        """Virtual tokens."""
        return self.variant.length

    @property
    def cached(self) -> KVPrefix:
        """What the stage `kv_prefix` kept."""
        return KVPrefix.load(self._kept / KEPT)

    @property
    def cached_tokens(self) -> list[int]:
        """The tokens of what the stage `kv_prefix` kept."""
        return [int(token) for token in stored_tokens(self._kept)["tokens"]]

    @property
    def cached_begins_text(self) -> bool:
        """Whether what the stage `kv_prefix` kept begins a text."""
        return begins_text(self._kept)

    def first_tokens(self) -> KVPrefix:
        """The prefix of the first of them, up to the variant's length."""
        return first_tokens(self._kept, self.length, self.frozen_model)

    @property
    def prefix_config(self) -> PrefixConfig:
        """The prefix in the model."""
        config = self.model.prefix_config
        assert config is not None, "a variant trains a prefix"
        return config

    @property
    def keeps_states(self) -> bool:
        """Whether the prefix has states."""
        kinds = self.prefix_config.kinds
        return self.model.keeps_states and (kinds is None or "state" in kinds)

    @property
    def kv_shapes(self) -> Shapes:
        """The shapes of a prefix's keys and values."""
        return self.model.kv_shapes

    @property
    def cache_shapes(self) -> CacheShapes:
        """The shapes of what a prefix is made of, states included."""
        return self.model.cache_shapes

    @property
    def frozen_model(self) -> PreTrainedModel:
        """The model without its prefix."""
        return self.model.frozen_model

    @cached_property
    def generator(self) -> torch.Generator:
        """Random numbers of the variant's seed."""
        return torch.Generator().manual_seed(self.variant.seed)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The frozen model's tokenizer."""
        return load_tokenizer(paths.MODEL)

    @property
    def inputs_begin_text(self) -> bool:
        """Whether BOS is the first token of `inputs`."""
        rows = self._rows("train", 1)
        return "beginning" in rows.column_names and bool(rows[0]["beginning"])

    def inputs(self, most: int) -> list[list[int]]:
        """The first inputs of the training split as they follow what the stage `kv_prefix` kept,
        without their targets."""
        return [row["input_ids"][: row["target_start"]] for row in self._rows("train", most)]

    def examples(self, most: int) -> list[list[int]]:
        """The same with their targets."""
        return [list(row["input_ids"]) for row in self._rows("train", most)]

    def validation(self, most: int) -> list[tuple[list[int], int]]:
        """The first examples of the validation split, as they follow it."""
        rows = self._rows("validation", most)
        return [(list(row["input_ids"]), row["target_start"]) for row in rows]

    def _rows(self, split: str, most: int) -> Dataset | TokenizedRows:
        rows = load_split(paths.TOKENIZED / "splits", split)
        chosen = rows.select(range(min(most, len(rows))))
        return following(chosen, self.cached_begins_text)


def _folder(variant: Variant) -> Path:
    return paths.KV_PREFIX / variant.initialization
