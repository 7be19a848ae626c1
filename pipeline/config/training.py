"""The `kv_prefix`, `prefix`, `train` and `evaluate` sections."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.section import Count, Section, distinct

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
TextMetric = Literal["exact_match", "token_f1", "bleu", "chrf", "rouge_l"]
LabelMetric = Literal["accuracy", "f1"]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Compute(Section):
    """Where and in which precision the frozen model runs."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    dtype: Dtype = "auto"


class KVPrefixParams(Compute):
    """The KV caches of the text-based initialisations."""

    max_length: Count = 128
    dtype: Dtype = "float32"


class PrefixParams(Section):
    """The prefix encoder."""

    prefix_projection: bool = False
    encoder_hidden_size: Count | None = None
    prefix_dropout: Fraction = 0.0
    num_frozen_tokens: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    prefix_always_visible: bool = False
    parts: Annotated[list[Literal["encoder", "decoder", "cross"]], Field(min_length=1)] | None = (
        None
    )
    modules_to_save: list[str] | None = None

    @model_validator(mode="after")
    def _hidden_size_needs_projection(self) -> Self:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError("encoder_hidden_size needs prefix_projection: true")
        if self.parts is not None and len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts lists one twice: {', '.join(self.parts)}")
        return self


class TrainParams(Compute):
    """The training of every variant."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    epochs: Annotated[float, Field(gt=0)] | None = 1
    max_steps: Count | None = None
    eval_every_steps: Count | None = None
    early_stopping_patience: Count | None = None
    gradient_checkpointing: bool = False
    compile: Literal["auto"] | bool = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps, and null for the other")
        if self.early_stopping_patience is not None and self.eval_every_steps is None:
            raise ValueError("early_stopping_patience needs eval_every_steps")
        if self.compile is True and self.gradient_checkpointing:
            raise ValueError("compile: true does not go with gradient_checkpointing; use auto")
        return self


class CheckpointParams(Section):
    """How often a training is saved, to go on from there after an interruption.

    A section of its own, which no stage of DVC's reads: it cannot change what a training gives.
    """

    every_steps: Count | None = 20


class EvaluateParams(Compute):
    """The measurement on the test splits: the loss of the target, and greedy generation."""

    splits: Annotated[list[Literal["validation", "test", "test_unseen"]], Field(min_length=1)]
    # Of the generated text; loss and perplexity are measured in any case. Classifiers write none:
    # they have accuracy and F1 whatever is listed here.
    metrics: Annotated[list[TextMetric], AfterValidator(distinct)] = Field(
        default_factory=lambda: list(get_args(TextMetric))
    )
    max_new_tokens: Count = 32
    max_tokens_per_batch: Count = 4096
