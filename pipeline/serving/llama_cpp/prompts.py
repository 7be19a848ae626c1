"""The tokens of a request's input, as the prefix saw inputs in training."""

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.serving.llama_cpp.asked import AskedChat, AskedCompletion


class Prompts:
    """Inputs of the project's task, by the frozen model's tokenizer.

    Not by the server's own template and tokenizer: a GGUF file may hold others.
    """

    def __init__(self, task: TaskParams, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = Renderer(task, tokenizer)
        self._uses_chat_template = task.use_chat_template
        self._vocabulary = len(tokenizer)
        self.ends = {self._renderer.end_of_target[-1]}
        """What ends an answer, beside the tokens that the GGUF file names."""

    def tokens(self, asked: AskedChat | AskedCompletion, begins_text: bool) -> list[int]:
        """At least one token.

        Raises PipelineError for an input of none, which a server would answer from a prefix that it
        reads one cell of again, and for turns that the task has no template for.
        """
        if isinstance(asked, AskedChat):
            ids = self._of_chat(asked, begins_text)
        elif isinstance(asked.prompt, str):
            ids, begin = self._renderer.tokens(asked.prompt, False)
            ids = ids[begin:] if begins_text else ids
        else:
            ids = list(asked.prompt)
            if unknown := [token for token in ids if not 0 <= token < self._vocabulary]:
                raise PipelineError(f"prompt: {unknown[0]} is no token of the frozen model")
        if not ids:
            raise PipelineError("the input is empty: it has no token behind the prefix")
        return ids

    def _of_chat(self, asked: AskedChat, begins_text: bool) -> list[int]:
        turns = asked.turns
        if self._uses_chat_template:
            return self._renderer.prompt_ids(turns, begins_text)
        if [turn["role"] for turn in turns] != ["user"]:
            raise PipelineError(
                "messages: task.use_chat_template is false, so that a chat is one message of a "
                "user, whose content is an input; send that alone"
            )
        return self._renderer.prompt_ids(turns[0]["content"], begins_text)
