"""What `python -m pipeline serve` serves, and how much at once: the `serving` section."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.schema.section import Count, GivenPath, Section

ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=100)]
"""A model's name in a request."""


class LlamaCppParams(Section):
    """llama.cpp's server: one that is started with these options, or one that runs already.

    `server` is the address of one that runs, whose `--slot-save-path` on this machine is
    `state_folder`: what it was started with is asked of it, and the options here are for one of our
    own. Or it is the path of a `llama-server` to start; null for xllamacpp's, or the one on PATH.
    """

    # The frozen model; null for the file that `model.source: wheel` names.
    gguf: GivenPath | None = None
    server: Annotated[str, Field(min_length=1)] | None = None
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

    @property
    def running_at(self) -> str | None:
        """The address of a server that runs already; None for one to start."""
        return None if self.server is None or "://" not in self.server else self.server.rstrip("/")

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if self.running_at is None:
            if self.state_folder is not None:
                raise ValueError(
                    "state_folder needs server, the address of one that runs; give both, or neither"
                )
            return self
        if re.fullmatch(r"https?://[^/\s]+", self.running_at) is None:
            raise ValueError(
                f"server is no address: {self.server}; give one such as http://127.0.0.1:8080, or "
                "the path of a llama-server"
            )
        if self.state_folder is None:
            raise ValueError("server needs state_folder; give both, or neither")
        for name in ("gguf", "cache_type", "flash_attn", "slots", "context", "threads"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"server has its own {name}; give that where it is started, and leave {name} "
                    "out here"
                )
        return self


class ServingParams(Section):
    """Names of served prefixes, bounds, llama.cpp's options.

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
    max_connections: Annotated[int, Field(ge=2)] = 1024
    stop_seconds: Annotated[float, Field(ge=0)] = 30.0
    llama_cpp: LlamaCppParams = LlamaCppParams()
