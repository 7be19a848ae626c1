"""The prefix encoder: the `prefix` section."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.errors import PipelineError
from pipeline.schema.section import Count, Fraction, GivenPath, Section, distinct

_SUFFIX = ".safetensors"
_IN_FOLDER = "prefix.safetensors"
# What is of virtual tokens that inputs attend to, and what each is where nothing is asked of them.
_OF_TOKENS = {
    **{"num_frozen_tokens": 0, "prefix_always_visible": False, "prefix_projection": False},
    **{"prefix_dropout": 0, "token_dropout": 0, "leave_one_out": False},
}


def prefix_files(folder: Path) -> dict[str, Path]:
    """The prefixes in a folder by name: `<name>.safetensors` or `<name>/prefix.safetensors`."""
    found = {path.stem: path for path in folder.glob(f"*{_SUFFIX}")}
    return found | {path.parent.name: path for path in folder.glob(f"*/{_IN_FOLDER}")}


class DistractorParams(Section):
    """Which prefixes stand beside the trained one, how many at once, and how often.

    `path` is a folder with `<name>.safetensors` or `<name>/prefix.safetensors` of each, which DVC
    watches; what it is is of no matter while `count` is 0.
    """

    path: GivenPath = "data/model/config.json"
    prefixes: Annotated[list[str], Field(min_length=1)] | None = None
    count: Annotated[int, Field(ge=0)] = 0
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _they_can_be_read(self) -> Self:
        if self.count and Path(self.path).parts[:2] == ("data", "train"):
            raise ValueError(
                f"path: '{self.path}' is written by the stage that would read it; copy the "
                "prefixes of other documents to a folder of their own"
            )
        if self.prefixes is not None:
            distinct(self.prefixes)
            if self.count > len(self.prefixes):
                raise ValueError(
                    f"count: {self.count} at once are more than the {len(self.prefixes)} of "
                    "prefixes; lower it or name more"
                )
        return self

    def files(self) -> dict[str, Path]:
        """The file of each prefix, by name and in its order; none while `count` is 0.

        Raises PipelineError for a name without a file, and for fewer than `count`.
        """
        if not self.count:
            return {}
        found = prefix_files(Path(self.path))
        for name in self.prefixes or ():
            if name not in found:
                raise PipelineError(
                    f"prefix.distractors.prefixes: {self.path} holds no {name}{_SUFFIX}, and no "
                    f"{name}/{_IN_FOLDER}; it holds {', '.join(sorted(found)) or 'no prefix'}"
                )
        if len(found) < self.count:
            raise PipelineError(
                f"prefix.distractors.count: {self.count} at once are more than the {len(found)} "
                f"prefixes in {self.path}; lower it, or put more <name>{_SUFFIX} there"
            )
        return {name: found[name] for name in sorted(self.prefixes or found)}


class PrefixParams(Section):
    """The prefix encoder."""

    prefix_projection: bool = False
    encoder_hidden_size: Count | None = None
    prefix_dropout: Fraction = 0.0
    token_dropout: Fraction = 0.0
    leave_one_out: bool = False
    num_frozen_tokens: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    prefix_always_visible: bool = False
    parts: Annotated[list[Literal["encoder", "decoder", "cross"]], Field(min_length=1)] | None = (
        None
    )
    modules_to_save: list[str] | None = None
    kinds: Annotated[list[Literal["attention", "state"]], Field(min_length=1)] | None = None
    distractors: DistractorParams = DistractorParams()

    @property
    def has_states_alone(self) -> bool:
        """Whether it is for the initial states of recurrent layers, and no attention layer."""
        return self.kinds is not None and set(self.kinds) == {"state"}

    @property
    def given_for_tokens(self) -> list[tuple[str, str, str]]:
        """The keys that ask for something of virtual tokens: key, value, and what asks for none."""
        return [
            (key, str(getattr(self, key)).lower(), str(unset).lower())
            for key, unset in _OF_TOKENS.items()
            if getattr(self, key) != unset
        ]

    @model_validator(mode="after")
    def _hidden_size_needs_projection(self) -> Self:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError("encoder_hidden_size needs prefix_projection: true")
        if self.parts is not None and len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts lists one twice: {', '.join(self.parts)}")
        if self.kinds is not None and len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds lists one twice: {', '.join(self.kinds)}")
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers lists one twice: {', '.join(map(str, self.layers))}")
        return self

    @model_validator(mode="after")
    def _distractors_have_no_states(self) -> Self:
        if self.distractors.count and "state" in (self.kinds or ()):
            raise ValueError(
                f"distractors.count: {self.distractors.count} needs prefixes of keys and values, "
                f"since states cannot be composed, and kinds is {self.kinds}; use [attention], or "
                "set count to 0"
            )
        return self

    @model_validator(mode="after")
    def _states_have_no_tokens(self) -> Self:
        if self.has_states_alone:
            for key, value, unset in self.given_for_tokens:
                raise ValueError(
                    f"{key}: {value} is of virtual tokens that inputs attend to, and "
                    f"kinds: [state] has none; set it to {unset}, or add attention"
                )
        return self
