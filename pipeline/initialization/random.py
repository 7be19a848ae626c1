"""`random`: normal noise, of PEFT's own size or with the statistics of the frozen model's cache."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.initialization.context import StartContext
from pipeline.initialization.start import Start
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix

_TEXTS = 16
_TOKENS = 64


class Random(Start):
    """Normal noise, drawn anew for each seed.

    Of `standard` statistics as PEFT starts a prefix: mean 0, standard deviation `scale`. Else of
    the mean and the covariance of what the frozen model caches of `texts` texts: the first training
    inputs, or tokens of the vocabulary drawn by the variant's seed.
    """

    type: Literal["random"]
    scale: Annotated[float, Field(gt=0)] = 1.0
    statistics: Literal["standard", "inputs", "vocabulary"] = "standard"
    texts: Count = _TEXTS

    @model_validator(mode="after")
    def _texts_are_read(self) -> Self:
        if self.statistics == "standard" and self.texts != _TEXTS:
            raise ValueError(
                f"texts: {self.texts} is of how many texts statistics are taken, and statistics: "
                "standard takes none; leave it out, or set statistics to inputs or vocabulary"
            )
        return self

    @property
    def is_drawn(self) -> bool:
        """Each seed has its own noise."""
        return True

    @property
    def is_made_by_model(self) -> bool:
        """Whether the model reads the texts that statistics are taken of."""
        return self.statistics != "standard"

    def origin(self) -> str:
        """Noise."""
        if self.statistics == "standard":
            return f"noise of standard deviation {self.scale:g}"
        read = {"inputs": "training inputs", "vocabulary": "words of the vocabulary"}
        return f"noise like keys and values of {read[self.statistics]}"

    def start(self, context: StartContext) -> "KVPrefix":
        """Noise of the variant's seed; states by their own size, or by their own statistics."""
        from pipeline.prefix import kv_prefix_from_statistics, random_kv_prefix

        length, generator = context.length, context.generator
        if self.statistics == "standard":
            return random_kv_prefix(context.cache_shapes, length, self.scale, generator)
        texts, begins_text = self._texts(context)
        kv = kv_prefix_from_statistics(context.frozen_model, texts, length, generator, self.scale)
        # The first virtual token is BOS's own entry then, and stands for it.
        return kv.beginning_text(begins_text)

    def _texts(self, context: StartContext) -> tuple[list[list[int]], bool]:
        """Token ids of each text, and whether what begins a text (BOS) begins them."""
        from pipeline.prefix.architecture.parts import is_decoder_only
        from pipeline.prefix.starts.beginning import tokens_before
        from pipeline.prefix.starts.drawn import tokens_of_words

        if self.statistics == "inputs":
            return context.inputs(self.texts), context.inputs_begin_text
        model, tokenizer = context.frozen_model, context.tokenizer
        texts = [
            tokens_of_words(model, tokenizer, None, _TOKENS, context.generator)
            for _ in range(self.texts)
        ]
        return texts, is_decoder_only(model) and bool(tokens_before(tokenizer))
