"""The prefix encoder: the `prefix` section."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.schema.section import Count, Fraction, Section


class PrefixParams(Section):
    """The prefix encoder."""

    prefix_projection: bool = False
    encoder_hidden_size: Count | None = None
    prefix_dropout: Fraction = 0.0
    num_frozen_tokens: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    prefix_always_visible: bool = False
    parts: Annotated[list[Literal["encoder", "decoder", "cross"]], Field(min_length=1)] | None = (
        None
    )
    modules_to_save: list[str] | None = None
    kinds: Annotated[list[Literal["attention", "state"]], Field(min_length=1)] | None = None

    @property
    def has_states_alone(self) -> bool:
        """Whether it is for the initial states of recurrent layers, and no attention layer."""
        return self.kinds is not None and set(self.kinds) == {"state"}

    @model_validator(mode="after")
    def _hidden_size_needs_projection(self) -> Self:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError("encoder_hidden_size needs prefix_projection: true")
        if self.parts is not None and len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts lists one twice: {', '.join(self.parts)}")
        if self.kinds is not None and len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds lists one twice: {', '.join(self.kinds)}")
        return self

    @model_validator(mode="after")
    def _states_have_no_tokens(self) -> Self:
        if not self.has_states_alone:
            return self
        for key, unset in (
            ("num_frozen_tokens", 0),
            ("prefix_always_visible", False),
            ("prefix_projection", False),
            ("prefix_dropout", 0),
        ):
            if (value := getattr(self, key)) != unset:
                raise ValueError(
                    f"{key}: {str(value).lower()} is of virtual tokens that inputs attend to, and "
                    f"kinds: [state] has none; set it to {str(unset).lower()}, or add attention"
                )
        return self
