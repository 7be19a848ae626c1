"""The tokens of a request's input, as the prefix saw inputs in training: one rule for our engines.

By the project's own chat template and tokenizer. Where the task has no chat template, a chat is one
message of a user, and reads as a completion of its content does.
"""

import threading
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.chat import RefusedTurnsError
from pipeline.data.conversation import Turns
from pipeline.data.rendering import Renderer
from pipeline.errors import PipelineError
from pipeline.serving.refusals import Refusal


class Prompts:
    """Inputs of a project's task. Safe under threads.

    Args:
        task: whose chat template settings and system prompt conversations get.
        tokenizer: the frozen model's.
        vocabulary: how many tokens the frozen model knows.

    Attributes:
        end: what ends an answer, beside what ends any text of the model's.
    """

    def __init__(
        self, task: TaskParams, tokenizer: PreTrainedTokenizerBase, vocabulary: int
    ) -> None:
        self._renderer = Renderer(task, tokenizer)
        self._vocabulary = vocabulary
        self.end = self._renderer.end_of_target[-1]
        # A tokenizer's first call may change its padding or truncation, which no other call
        # beside it survives ("Already borrowed").
        self._tokenizing = threading.Lock()

    def of_text(self, given: str | Sequence[int], begins_text: bool) -> list[int]:
        """The tokens of a completion's input after a prefix, at least one.

        Args:
            given: a text, or its tokens, which are taken as they are.
            begins_text: whether the prefix begins a text, so that an input has no BOS of its own.

        Raises:
            Refusal: for an empty input, and for what is no token.
        """
        if isinstance(given, str):
            with self._tokenizing:
                ids, beginning = self._renderer.tokens(given, is_chat=False)
            ids = ids[beginning:] if begins_text else ids
        else:
            ids = list(given)
            unknown = next((token for token in ids if not 0 <= token < self._vocabulary), None)
            if unknown is not None:
                sentence = f"prompt: {unknown} is no token of a vocabulary of {self._vocabulary}"
                raise Refusal(400, sentence, "prompt")
        if not ids:
            raise Refusal(400, "prompt: is empty, which leaves nothing to go on from", "prompt")
        return ids

    def of_turns(self, turns: Turns, begins_text: bool) -> list[int]:
        """The tokens of a conversation after a prefix, at least one.

        Raises Refusal for turns that the task has no form for, and for an empty input.
        """
        if not self._renderer.task.use_chat_template:
            if [turn["role"] for turn in turns] != ["user"]:
                raise _refused(
                    "task.use_chat_template is false, so that a chat is one message of a user, "
                    "whose content is an input; send that alone"
                )
            asked: str | Turns = turns[0]["content"]
        elif all(turn["role"] == "system" for turn in turns):
            raise _refused("has no turn of a user")
        else:
            asked = turns
        try:
            with self._tokenizing:
                ids = self._renderer.prompt_ids(asked, begins_text)
        except RefusedTurnsError as error:
            raise _refused(f"the model's chat template refuses: {error.reason}") from error
        except PipelineError as error:
            raise _refused(str(error)) from error
        if not ids:
            raise _refused("is empty, which leaves nothing to go on from")
        return ids


def _refused(reason: str) -> Refusal:
    return Refusal(400, f"messages: {reason}", "messages")
