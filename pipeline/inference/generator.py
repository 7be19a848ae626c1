"""Text in, text out, from a frozen model with a prefix."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from pipeline.config import Params
from pipeline.config.task import TaskParams, refuse_other_tasks
from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.data.task_type import TaskType
from pipeline.inference.continuations import Batch, Continuation
from pipeline.inference.decoding import Decoding
from pipeline.inference.sampling import DrawingFrom
from pipeline.inference.selection import choose, choose_prefix, load_chosen, load_prefix
from pipeline.models.for_task import load_for_task
from pipeline.models.prefixed import prefixed_model
from pipeline.models.room import refuse_without_room
from pipeline.models.tokenizer import end_tokens, load_tokenizer, without_end
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.composition import composed
from pipeline.prefix.packed.running import Stem
from pipeline.schema.compute import Compute, DeviceMap
from pipeline.workspace import paths

_WRITES = ("causal_lm", "seq2seq_lm")


class TextGenerator:
    """A prefix model that answers texts as the test split was answered.

    An input is what `task.input_template` would render; the chat template and the system prompt of
    `task` are put around it here.
    """

    def __init__(
        self, model: PrefixModel, tokenizer: PreTrainedTokenizerBase, task: TaskParams
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._renderer = Renderer(task, tokenizer)
        self._task = task
        # A tokenizer's first call may change its padding or truncation, which no other call
        # beside it survives ("Already borrowed").
        self._tokenizing = threading.Lock()
        self.ends = end_tokens(self.model.frozen_model, tokenizer)
        """The tokens that end an answer."""
        if task.type == "causal_lm":
            self.ends.add(self._renderer.end_of_target[-1])

    def render(self, row: Mapping[str, Any]) -> str | Turns:
        """What a row of data asks: its text, or its turns with `task.messages_column`.

        Raises PipelineError for a column that it lacks.
        """
        return self._renderer.asked(row)

    def __call__(
        self, asked: str | Turns, decoding: Decoding, streamer: BaseStreamer | None = None
    ) -> str:
        """What the model writes for one input, without surrounding white space.

        One input at a time: what an input is batched with can change a tie in bfloat16, and the
        same input has to give the same text wherever it is asked, whatever other threads ask.
        """
        prompt = self.prompt_ids(asked)
        refuse_without_room(self.model, len(prompt), decoding.max_new_tokens)
        return self.answer(prompt, decoding, streamer)

    def answer(
        self, prompt: list[int], decoding: Decoding, streamer: BaseStreamer | None = None
    ) -> str:
        """As a call, to the tokens of an input (`prompt_ids`) that there is room for."""
        if self.is_packed(len(prompt) + decoding.max_new_tokens):
            return self.text_of(self._continued(prompt, decoding, streamer))
        return self.text_of(self._generated(prompt, decoding, streamer))

    def prompt_ids(self, asked: str | Turns) -> list[int]:
        """The tokens of an input that follow the prefix."""
        with self._tokenizing:
            return self._renderer.prompt_ids(asked, self.model.begins_text)

    def text_of(self, tokens: Sequence[int]) -> str:
        """What tokens that were generated say, without surrounding white space."""
        written = without_end(list(tokens), self.ends)
        return str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()

    def is_packed(self, tokens: int) -> bool:
        """Whether packed rows serve inputs and answers of so many tokens together."""
        if self._task.type != "causal_lm":
            return False
        return self.model.why_not_packed(decoding=True, tokens=tokens) is None

    def stem(self) -> Stem:
        """The prefix as it is now, laid out for packed rows."""
        return Stem(self.model.kv_prefix(), self.model.prefix_always_visible)

    def _continued(
        self, prompt: list[int], decoding: Decoding, streamer: BaseStreamer | None
    ) -> list[int]:
        """The tokens by packed rows: the prefix laid out once, a cache that is never copied."""
        batch: Batch[Continuation] = Batch(self.model.frozen_model)
        text = Continuation(self.stem(), prompt, decoding, self.ends)
        if streamer is not None:
            streamer.put(torch.tensor([prompt]))
        with batch.at_work():
            batch.begin([text])
            while True:
                if streamer is not None:
                    streamer.put(torch.tensor(text.tokens[-1:]))
                if not batch.running:
                    break
                batch.step()
        if streamer is not None:
            streamer.end()
        return text.tokens

    def _generated(
        self, prompt: list[int], decoding: Decoding, streamer: BaseStreamer | None
    ) -> list[int]:
        """The tokens by transformers' `generate`."""
        ids = torch.tensor([prompt], device=self.model.device)
        drawing: AbstractContextManager[Any] = nullcontext()
        if decoding.samples:
            drawing = DrawingFrom(torch.Generator(ids.device).manual_seed(decoding.seed))
        with drawing:
            generated = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                **self._settings(decoding),
            )
        # An encoder-decoder does not say its input again.
        begin = 0 if self._task.type == "seq2seq_lm" else ids.shape[1]
        return list(generated[0, begin:].tolist())

    def _settings(self, decoding: Decoding) -> dict[str, Any]:
        """What chooses the next token as the evaluation does.

        A decoder's own settings are overridden; an encoder-decoder's stay, but for beams.
        """
        samples = decoding.samples
        settings = {
            "max_new_tokens": decoding.max_new_tokens,
            "do_sample": samples,
            # transformers' defaults where nothing is sampled: it warns of any other.
            "temperature": decoding.temperature if samples else 1.0,
            "top_p": decoding.top_p if samples else 1.0,
            "top_k": 0 if samples else 50,
        }
        if self._task.type == "seq2seq_lm":
            return {**settings, "num_beams": 1}
        return {
            **settings,
            "eos_token_id": sorted(self.ends) or None,
            "pad_token_id": self.tokenizer.pad_token_id,
            "repetition_penalty": 1.0,
        }


def generator_of(params: Params, variant: str) -> TextGenerator:
    """The generator of a variant or imported adapter of params.yaml, or of the "best".

    Raises PipelineError or PrefixError when it is not known, not trained, or does not fit.
    """
    refuse_other_tasks(params.task, "generate", _WRITES)
    name = choose(params, variant)
    return load_generator(
        paths.MODEL,
        params.task,
        params.evaluate,
        params.prefix.prefix_always_visible,
        lambda frozen: load_prefix(params, name, frozen),
        params.device_map,
    )


def generator_of_several(
    params: Params, names: Sequence[str], always_visible: bool | None = None
) -> TextGenerator:
    """The generator of several prefixes together, each a file, an adapter's folder or a variant.

    They stand one after another in this order (`pipeline.prefix.composition`). `always_visible` is
    `prefix_always_visible` of what trained them; None for that of the sweep. Raises PipelineError
    or PrefixError as `generator_of`, and where they do not go together.
    """
    refuse_other_tasks(params.task, "generate", _WRITES)
    chosen = [choose_prefix(params, name) for name in names]

    def together(frozen: PreTrainedModel) -> KVPrefix:
        return composed(frozen, [load_chosen(params, each, frozen) for each in chosen], names)

    if always_visible is None:
        always_visible = params.prefix.prefix_always_visible
    return load_generator(
        paths.MODEL, params.task, params.evaluate, always_visible, together, params.device_map
    )


def load_generator(
    model_folder: Path,
    task: TaskParams,
    compute: Compute,
    prefix_always_visible: bool,
    prefix_of: Callable[[PreTrainedModel], KVPrefix],
    device_map: DeviceMap | None = None,
) -> TextGenerator:
    """The frozen model in `model_folder` with the prefix that `prefix_of` gives for it.

    Raises PipelineError or PrefixError when either is missing or they do not fit together.
    """
    refuse_other_tasks(task, "generate", _WRITES)
    frozen, _ = load_for_task(model_folder, compute, TaskType(task.type), device_map=device_map)
    model = prefixed_model(frozen, prefix_of(frozen), prefix_always_visible)
    return TextGenerator(model, load_tokenizer(model_folder), task)
