"""How the frozen model's linear layers are kept in fewer bits: key `quantization` of `model`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.schema.section import Count, Section


class BitsAndBytes(Section):
    """By bitsandbytes: LLM.int8 (Dettmers et al. 2022), or 4 bits (QLoRA, Dettmers et al. 2023)."""

    library: Literal["bitsandbytes"]
    bits: Literal[8, 4]
    quant_type: Literal["nf4", "fp4"] | None = None
    double_quant: bool = False

    @model_validator(mode="after")
    def _of_four_bits(self) -> Self:
        if self.bits == 8 and (self.quant_type is not None or self.double_quant):
            raise ValueError("quant_type and double_quant are of bits: 4; leave them out")
        return self


class TorchAo(Section):
    """By torchao, weights alone: a scale for each row of 8 bits, for each group of 4."""

    library: Literal["torchao"]
    bits: Literal[8, 4]
    group_size: Count | None = None

    @model_validator(mode="after")
    def _of_four_bits(self) -> Self:
        if self.bits == 8 and self.group_size is not None:
            raise ValueError("group_size is of bits: 4; leave it out")
        return self


Quantization = Annotated[BitsAndBytes | TorchAo, Field(discriminator="library")]
