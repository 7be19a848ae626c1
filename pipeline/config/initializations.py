"""Where a prefix can start: the `initializations` section."""

from typing import Annotated

from pydantic import Field

from pipeline.initialization.table import Initialization
from pipeline.schema.section import Name

Initializations = Annotated[dict[Name, Initialization], Field(min_length=1)]
