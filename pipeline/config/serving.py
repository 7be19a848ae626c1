"""What `python -m pipeline serve` serves, and how much at once: the `serving` section."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.schema.section import Count, GivenPath, Section

ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=100)]
"""A model's name in a request."""


class LlamaCppParams(Section):
    """llama.cpp's server: one that is started with these options, or one that runs already.

    `server` is the address of one that runs, `state_folder` its `--slot-save-path` on this machine;
    what it was started with is asked of it, and the options here are for one of our own.
    """

    # The frozen model; null for the file that `model.source: wheel` names.
    gguf: GivenPath | None = None
    server: Annotated[str, Field(pattern=r"^https?://[^/\s]+/?$")] | None = None
    state_folder: GivenPath | None = None
    # Of cached keys and values. Quantized ones would round the prefix that was trained.
    cache_type: Literal["f32", "f16", "bf16"] = "f16"
    # Without flash attention values are stored transposed.
    flash_attn: bool = True
    # Requests that are answered at once, and the positions of each, the prefix included.
    slots: Annotated[int, Field(ge=1, le=256)] = 2
    context: Annotated[int, Field(ge=4)] = 2048
    # Null for as many as llama.cpp takes.
    threads: Count | None = None
    # LLAMA_STATE_SEQ_VERSION of the llama.cpp that an exported state is for; null for the
    # verified one's.
    state_version: Literal[3, 4] | None = None

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if (self.server is None) != (self.state_folder is None):
            given, lacking = "server", "state_folder"
            if self.server is None:
                given, lacking = lacking, given
            raise ValueError(f"{given} needs {lacking}; give both, or neither")
        if self.server is None:
            return self
        for name in ("gguf", "cache_type", "flash_attn", "slots", "context", "threads"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"server has its own {name}; give that where it is started, and leave {name} "
                    "out here"
                )
        return self


class ServingParams(Section):
    """Names of served prefixes, the bounds of the project's own engine, llama.cpp's options.

    A section of its own, which no stage of DVC's reads: serving comes after all of them.
    """

    # What a name stands for is as `generate --prefix` takes it; none for every trained variant.
    prefixes: dict[ServedName, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    # What the frozen model alone is called; null for its name in the section `model`.
    model_name: ServedName | None = None
    max_running: Count = 32
    max_waiting: Count = 256
    max_cache_tokens: Count = 65536
    max_context: Annotated[int, Field(ge=2)] | None = None
    stop_seconds: Annotated[float, Field(ge=0)] = 30.0
    llama_cpp: LlamaCppParams = LlamaCppParams()
