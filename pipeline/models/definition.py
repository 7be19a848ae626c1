"""An initialisation on disk: what the stage `kv_prefix` was run with, for the stage `train`."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import PipelineError
from pipeline.initialization.start import Start
from pipeline.initialization.table import Initialization
from pipeline.storage.records import read_json, write_json

_FILE = "definition.json"


def write_definition(folder: Path, definition: Start) -> None:
    """Write the initialisation's keys, defaults filled in, into its folder."""
    write_json(folder / _FILE, definition.model_dump())


def read_definition(folder: Path) -> Start:
    """The initialisation that a folder is of. Raises PipelineError when it says none."""
    definitions: TypeAdapter[Start] = TypeAdapter(Initialization)
    try:
        return definitions.validate_python(read_json(folder / _FILE))
    except ValidationError as error:
        raise PipelineError(
            f"{folder / _FILE}: is no initialisation; run "
            f"`dvc repro --force kv_prefix@{folder.name}`"
        ) from error
