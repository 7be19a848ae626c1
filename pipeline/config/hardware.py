"""What the machine is: the `hardware` section."""

from typing import Literal

from pipeline.schema.section import Section

# The rows of `pipeline.prefix.packed.backends`, which imports torch, and this file does not.
Attention = Literal["auto", "kernel", "varlen", "efficient", "flex", "operators"]


class HardwareParams(Section):
    """How this machine computes.

    A section of its own, which no stage of DVC's reads: it changes results only by their rounding,
    and another machine is no reason to compute anything again.
    """

    attention: Attention = "auto"
