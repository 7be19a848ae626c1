"""What is served: the frozen model under several names, with a prefix each and once alone."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.conversation import Turns
from pipeline.data.task_type import TaskType
from pipeline.errors import PipelineError
from pipeline.inference.decoding import Decoding
from pipeline.inference.selection import load_chosen
from pipeline.models.for_task import load_for_task
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import end_tokens, load_tokenizer
from pipeline.prefix import KVPrefix
from pipeline.prefix.architecture.context import context_of
from pipeline.prefix.packed.backends import use_backend
from pipeline.prefix.packed.running import Stem
from pipeline.serving.asked import Asked
from pipeline.serving.batching.choice import Choice, Piece, Wanted
from pipeline.serving.prompts import Prompts
from pipeline.serving.refusals import Refusal, unknown_model
from pipeline.workspace import paths


@dataclass(frozen=True)
class Model:
    """One name: what its inputs follow, and whether that begins a text."""

    stem: Stem
    begins_text: bool = False

    @property
    def prefix_length(self) -> int:
        """Virtual tokens before every input."""
        return 0 if self.stem.prefix is None else len(self.stem.prefix)


class Models:
    """One frozen model with several prefixes, and the way from a request to its choices.

    Args:
        task: whose chat template settings and system prompt conversations get.
        max_new_tokens: of an answer whose request says nothing of its length.
        max_context: positions, the prefix included; None for as many as the model has.
    """

    def __init__(
        self,
        frozen_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: TaskParams,
        models: dict[str, Model],
        max_new_tokens: int,
        max_context: int | None = None,
    ) -> None:
        self.frozen_model = frozen_model.eval()
        self.models = models
        self.max_new_tokens = max_new_tokens
        limits = [n for n in (context_of(frozen_model), max_context) if n is not None]
        self.max_context = min(limits, default=None)
        self._tokenizer = tokenizer
        vocabulary = frozen_model.get_input_embeddings().weight.shape[0]
        self._prompts = Prompts(task, tokenizer, vocabulary)
        self._ends = end_tokens(frozen_model, tokenizer) | {self._prompts.end}

    def model(self, name: str) -> Model:
        """The model of a name. Raises Refusal where there is none."""
        if name not in self.models:
            raise unknown_model(name)
        return self.models[name]

    def prompt_of_text(self, model: Model, given: str | list[int]) -> list[int]:
        """The tokens of a completion's input after the prefix. Raises Refusal for what is none."""
        return self._prompts.of_text(given, model.begins_text)

    def prompt_of_turns(self, model: Model, turns: Turns) -> list[int]:
        """The tokens of a conversation after the prefix. Raises Refusal for what is none."""
        return self._prompts.of_turns(turns, model.begins_text)

    def refuse_too_long(
        self, model: Model, prompt: list[int], new_tokens: int, most_cached: int
    ) -> None:
        """Raise Refusal for an input and an answer that the model or the caches cannot hold."""
        most = most_cached
        if self.max_context is not None:
            # The last token is chosen and never read.
            most = min(most, self.max_context - model.prefix_length + 1)
        if len(prompt) + new_tokens > most:
            raise Refusal(
                400,
                f"This model's maximum context length is {most} tokens. However, you requested "
                f"{len(prompt) + new_tokens} tokens ({len(prompt)} in the input, {new_tokens} in "
                "the answer). Shorten the input, or lower max_tokens.",
                "max_tokens" if len(prompt) < most else None,
                "context_length_exceeded",
            )

    def choice(
        self,
        model: Model,
        prompt: list[int],
        decoding: Decoding,
        wanted: Wanted,
        emit: Callable[[Piece], None],
    ) -> Choice:
        """An answer that is to be computed."""
        return Choice(model.stem, prompt, decoding, self._ends, self._tokenizer, wanted, emit)

    def spell(self, token: int) -> str:
        """The text of a token alone."""
        return str(self._tokenizer.decode([token]))


def load_models(asked: Asked) -> Models:
    """The frozen model of data/model with the prefixes that are asked for.

    Raises PipelineError or PrefixError for what is missing, does not fit, or cannot be served.
    """
    params = asked.params
    use_backend(params.hardware.attention)
    task = TaskType(params.task.type)
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task, device_map=params.device_map)
    frozen.eval()
    limits = [n for n in (context_of(frozen), params.serving.max_context) if n is not None]
    longest = min([*limits, params.serving.max_cache_tokens])
    models = {asked.model_name: _model(asked.model_name, frozen, None, False, longest)}
    for name, chosen in asked.prefixes.items():
        kv = load_chosen(params, chosen, frozen)
        visible = params.prefix.prefix_always_visible
        models[name] = _model(name, frozen, kv, visible, longest)
    return Models(
        frozen,
        load_tokenizer(paths.MODEL),
        params.task,
        models,
        params.evaluate.max_new_tokens,
        params.serving.max_context,
    )


def _model(
    name: str, frozen: PreTrainedModel, kv: KVPrefix | None, always_visible: bool, longest: int
) -> Model:
    prefixed = prefixed_model(frozen, kv, always_visible).eval()
    reason = prefixed.why_not_packed(decoding=True, tokens=max(1, longest - len(kv or ())))
    prefixed.detach()
    if reason is not None:
        raise PipelineError(
            f"serve: '{name}' cannot be served by the engine transformers, which computes requests "
            f"in packed rows: {reason}; use `python -m pipeline generate`, or another --engine"
        )
    return Model(Stem(prefixed.kv_prefix(), always_visible), prefixed.begins_text)
