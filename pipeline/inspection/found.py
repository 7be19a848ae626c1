"""What was found in a prefix."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass
class Found:
    """The tables, those that could be made, by their names; facts, and what could not be shown."""

    facts: dict[str, Any]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
