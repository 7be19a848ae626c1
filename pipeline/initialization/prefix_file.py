"""`prefix_file`: a prefix of an earlier training."""

from typing import ClassVar, Literal

from pipeline.initialization.saved_prefix import SavedPrefixStart


class PrefixFile(SavedPrefixStart):
    """A prefix of an earlier training: `.safetensors` of this project, or a PEFT adapter folder."""

    type: Literal["prefix_file"]

    path_is_users_own: ClassVar[bool] = True
