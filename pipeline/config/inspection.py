"""What is looked at in the best prefix: the `inspection` section."""

from typing import Literal

from pipeline.schema.section import Count, Section


class InspectionParams(Section):
    """The inputs that attention is shown for and that ablations are measured on."""

    split: Literal["validation", "test", "test_unseen"] = "validation"
    examples: Count | None = 16
