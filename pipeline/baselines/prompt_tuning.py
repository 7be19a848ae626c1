"""`prompt_tuning`: trained embeddings before every input, by PEFT."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.baselines.context import Pretrained
from pipeline.baselines.trained import TrainedBaseline, Weights
from pipeline.baselines.with_peft import refuse_without_peft
from pipeline.schema.learning_rate import LearningRate, Rate, RateSearch
from pipeline.schema.section import Count

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from pipeline.prefix import PrefixModel

# What PEFT calls the ways to start.
_INIT = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB", "text": "TEXT"}


class PromptRates(RateSearch):
    """Embeddings, up to the rate of Lester et al., 0.3."""

    lowest: Rate = 3e-3
    highest: Rate = 3e-1


class PromptTuning(TrainedBaseline):
    """Embeddings before every input (Lester et al. 2021, arXiv 2104.08691), by PEFT.

    PEFT draws the start and holds what was trained; it is computed with as a prefix
    (`pipeline.prefix.prompted`), which gives the same numbers.
    """

    type: Literal["prompt_tuning"]
    learning_rate: LearningRate = 3e-2
    learning_rate_search: PromptRates = PromptRates()
    num_virtual_tokens: Count = 20
    init: Literal["random", "vocabulary", "text"] = "vocabulary"
    init_text: Annotated[str, Field(min_length=1)] | None = None

    needs_attention_alone: ClassVar[bool] = True
    weights: ClassVar[Weights] = Weights.UNCHANGED
    length_key: ClassVar[str | None] = "num_virtual_tokens"

    @model_validator(mode="after")
    def _a_text_to_start_from(self) -> Self:
        if self.init == "text" and self.init_text is None:
            raise ValueError("init: text needs a text to start from; give init_text")
        if self.init != "text" and self.init_text is not None:
            raise ValueError(f"init_text has no meaning with init: {self.init}; use init: text")
        return self

    def adaptable(self, pretrained: Pretrained) -> "PrefixModel":
        """The frozen model behind a prompt that takes gradients, in float32.

        It starts from a normal distribution (`random`), as words drawn with torch's current seed
        (`vocabulary`), or as the words of a text, cut or repeated to the length (`text`).

        Raises:
            PipelineError: when PEFT is missing.
            PrefixError: for a model that a prompt cannot stand before.
        """
        from pipeline.prefix import prompted_model

        model = pretrained.load()
        return prompted_model(model, _prompt_of(self._by_peft(model, pretrained)))

    def save(self, model: "PrefixModel", folder: Path, pretrained: Pretrained) -> None:
        """Write a PEFT adapter folder."""
        by_peft = self._by_peft(model.frozen_model, pretrained)
        _prompt_of(by_peft).data.copy_(model.encoder.get_parameter("embedding"))
        by_peft.save_pretrained(str(folder))

    def load(self, folder: Path, pretrained: Pretrained) -> "PrefixModel":
        """The frozen model with the keys and values of the prompt, computed once."""
        refuse_without_peft("prompt tuning")
        from peft import PeftModel

        from pipeline.prefix import PrefixConfig, PrefixModel, prompted_model

        model = pretrained.load()
        prompted = prompted_model(model, _prompt_of(PeftModel.from_pretrained(model, folder)))
        kv = prompted.kv_prefix()
        assert kv is not None, "a prompt is a prefix"
        prompted.detach()
        prefixed = PrefixModel(model, PrefixConfig(num_virtual_tokens=len(kv)))
        prefixed.load_kv_prefix(kv)
        return prefixed.requires_grad_(False).eval()

    def _by_peft(self, model: "PreTrainedModel", pretrained: Pretrained) -> "PeftModel":
        """A prompt before a model as PEFT has it, which leaves the model as it is."""
        refuse_without_peft("prompt tuning")
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=_INIT[self.init],
            prompt_tuning_init_text=self.init_text,
            tokenizer_name_or_path=str(pretrained.folder),
        )
        return get_peft_model(model, config)


def _prompt_of(by_peft: "PeftModel") -> "torch.nn.Parameter":
    return by_peft.prompt_encoder["default"].embedding.weight
