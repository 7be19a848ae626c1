"""What of a prefix no cache of llama.cpp holds, each told with its reason."""

from transformers import PreTrainedConfig

from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix
from pipeline.prefix.architecture.reach import MASKED, window_of

_INSTEAD = "use `python -m pipeline generate`"


def refuse_prefix(name: str, kv: KVPrefix, config: PreTrainedConfig, always_visible: bool) -> None:
    """Raise PipelineError for a prefix that is not keys and values in every layer, and no more.

    Args:
        name: what errors call it.
        kv: the prefix.
        config: the frozen model's.
        always_visible: `prefix.prefix_always_visible`.
    """
    if kv.parts is not None or config.is_encoder_decoder:
        parts = " and ".join(dict.fromkeys(kv.parts or ("encoder", "decoder")))
        raise PipelineError(
            f"{name} is for the {parts} of an encoder-decoder, and llama.cpp's state files hold a "
            f"decoder alone; {_INSTEAD}"
        )
    if kv.states or "attention" not in kv.kinds:
        raise PipelineError(
            f"{name} holds states of recurrent layers, which llama.cpp keeps in a cache of its "
            f"own, to which no prefix is written; {_INSTEAD}"
        )
    if kv.modules:
        raise PipelineError(
            f"{name} has weights of its own for {', '.join(sorted(kv.modules))}, which are no part "
            f"of llama.cpp's model; {_INSTEAD}"
        )
    layers = int(config.get_text_config().num_hidden_layers)
    if len(kv.keys) != layers:
        raise PipelineError(
            f"{name} has a prefix in {len(kv.keys)} of {layers} layers, and a cell of llama.cpp "
            f"holds keys and values of all: the others would attend to zeros; {_INSTEAD}"
        )
    if (window := window_of(config)) is None:
        return
    if always_visible:
        raise PipelineError(
            f"prefix.prefix_always_visible: {name} was trained to be seen from beyond the window "
            f"of {window} tokens ({' or '.join(MASKED)}), and llama.cpp hides it there; {_INSTEAD}"
        )
    raise PipelineError(
        f"{name} is for a model with a window of {window} tokens, whose layers llama.cpp keeps in "
        f"a second cache, to which no prefix is written; {_INSTEAD}"
    )


def refuse_beyond_context(name: str, length: int, context: int) -> None:
    """Raise PipelineError for a prefix that leaves no token of the server's context for an input.

    Args:
        name: what errors call it.
        length: p.
        context: positions of one slot of the server.
    """
    if length + 1 >= context:
        raise PipelineError(
            f"{name} has {length} virtual tokens, and a slot of llama.cpp's server {context} "
            "positions for prefix, input and answer; raise serving.llama_cpp.context, or the "
            "--ctx-size of serving.llama_cpp.server, which all its slots share"
        )
