"""From a row of data to the text and the tokens that the frozen model sees."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.chat import Chat, RefusedTurnsError
from pipeline.data.conversation import Turns, answers_in, as_text, turns_of
from pipeline.data.demonstrations import demonstration_starts, demonstrations_text
from pipeline.data.encoding import text_encoder
from pipeline.data.example import TokenizedExample
from pipeline.data.references import references_of
from pipeline.data.targets import end_of_target, input_and_target
from pipeline.data.templates import EmptyRowError, render
from pipeline.errors import PipelineError
from pipeline.prefix.starts.beginning import tokens_before


@dataclass(frozen=True)
class Renderer:
    """Renders rows by `task`; `labels` are those of training, of a classifier."""

    task: TaskParams
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...] = ()

    def examples(self, row: Mapping[str, Any]) -> list[TokenizedExample]:
        """The examples that a row gives: one, or with `task.loss_on: all` one for each answer.

        Raises PipelineError for a column that it lacks, and EmptyRowError when an input has no
        tokens or a target no text.
        """
        column = self.task.messages_column
        if column is None:
            return [self._tokenized(row, *self.texts(row))]
        answers = answers_in(turns_of(row, column), self.task.loss_on, row)
        whole = [self._conversation(row, turns, target) for turns, target in answers]
        for number, example in enumerate(whole[:-1], start=1):
            example["id"] += f"#{number}"
            example["references"] = [example["target"]]
        return whole

    def tokenize(self, row: Mapping[str, Any]) -> TokenizedExample:
        """The row's one example, or its last."""
        return self.examples(row)[-1]

    def truncated(self, row: Mapping[str, Any]) -> TokenizedExample:
        """As `tokenize`, the input's text cut at its beginning to keep to `task.max_length`.

        The end of an input stands next to the target, and mostly holds the question. Raises
        PipelineError when the target and the chat template alone are longer.
        """
        shown, target = self.texts(row)
        tokens = self._encode(shown)
        example = self._tokenized(row, shown, target)
        while (excess := len(example["input_ids"]) - self.task.max_length) > 0:
            tokens = tokens[excess:]
            shown = str(self.tokenizer.decode(tokens))
            if not tokens or not shown.strip():
                raise PipelineError(
                    f"task.max_length: example {row['id']} has more than {self.task.max_length} "
                    "tokens without any input; raise it, or set task.too_long to drop"
                )
            example = self._tokenized(row, shown, target)
        return example

    def texts(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The row's input and target as text, without the chat template."""
        if self.task.messages_column is not None:
            turns, target = answers_in(turns_of(row, self.task.messages_column), "last", row)[-1]
            return as_text(turns), target
        return (
            render(self.task.input_template, row, "task.input_template"),
            render(self.task.target_template, row, "task.target_template"),
        )

    def asked(self, row: Mapping[str, Any]) -> str | Turns:
        """What a row asks, for `prompt_ids`: its rendered input, or its turns up to an answer.

        An answer need not be there. Raises PipelineError for a column that the row lacks.
        """
        if self.task.messages_column is None:
            return render(self.task.input_template, row, "task.input_template")
        turns = turns_of(row, self.task.messages_column)
        if turns and turns[-1]["role"] != "assistant":
            return turns
        return answers_in(turns, "last", row)[-1][0]

    def prompt_ids(self, asked: str | Turns, begins_text: bool = False) -> list[int]:
        """The tokens of an input that the model continues, or that its encoder reads.

        After a prefix that begins a text (`begins_text`) they are those without the BOS.
        """
        if self.task.type != "causal_lm":
            return list(self.tokenizer(asked)["input_ids"])
        if self.task.use_chat_template:
            ids = self.chat.tokens(self.chat.render(self.conversation(asked), True))
        else:
            assert isinstance(asked, str), "turns need the chat template"
            ids = [*self._beginning, *self._encode(asked)]
        return ids[self.beginning_of(ids) :] if begins_text else ids

    def beginning_of(self, ids: Sequence[int]) -> int:
        """How many of an input's first tokens begin a text (BOS): 1 or 0."""
        return len(self._beginning) if list(ids[: len(self._beginning)]) == self._beginning else 0

    @cached_property
    def end_of_target(self) -> list[int]:
        """What a text's target ends with: what the chat template ends an assistant's turn with,
        or the end of a text. Raises PipelineError when there is neither."""
        chosen = self.chat.end_of_turn if self.task.use_chat_template else []
        return chosen or [end_of_target(self.tokenizer)]

    @cached_property
    def chat(self) -> Chat:
        """The chat template, as the task has it."""
        task = self.task
        return Chat(
            self.tokenizer, task.chat_template_date, task.chat_template_kwargs, task.system_prompt
        )

    def tokens(self, text: str, is_chat: bool) -> tuple[list[int], int]:
        """The tokens of a text of its own, and how many of them begin it (BOS).

        `is_chat`: it was rendered by the chat template, which holds all special tokens. An encoder
        reads its texts with all that the tokenizer puts around them.
        """
        if self.task.type != "causal_lm":
            return list(self.tokenizer.encode(text)), 0
        if not is_chat:
            # A template may begin with a BOS that the tokenizer adds to no text of itself.
            begin = tokens_before(self.tokenizer) or self._beginning
            return [*begin, *self._encode(text)], len(begin)
        ids = self.chat.tokens(text)
        return ids, int(self.chat.begins_text and ids[:1] == [self.tokenizer.bos_token_id])

    def conversation(self, asked: str | Turns) -> Turns:
        """A conversation's turns, a system turn first where the task has one and they have none."""
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        own = any(turn["role"] == "system" for turn in turns)
        return list(turns) if own else [*self.chat.system, *turns]

    def message(self, text: str) -> str:
        """A text as one user's message, by the chat template."""
        return self.chat.render([{"role": "user", "content": text}], False)

    def demonstrations(self, rows: Sequence[Mapping[str, Any]], template: str | None) -> str:
        """The rows one after another as one text (see `demonstrations_text`)."""
        return demonstrations_text(self, rows, template)

    def demonstration_starts(
        self, rows: Sequence[Mapping[str, Any]], template: str | None
    ) -> Iterator[int | None]:
        """Where in that text each row begins (see `pipeline.data.demonstrations`)."""
        return demonstration_starts(self, rows, template)

    @cached_property
    def _beginning(self) -> list[int]:
        if self.task.use_chat_template:
            return [int(self.tokenizer.bos_token_id)] if self.chat.begins_text else []
        return tokens_before(self.tokenizer)

    def _conversation(self, row: Mapping[str, Any], turns: Turns, target: str) -> TokenizedExample:
        try:
            example = self._tokenized(row, as_text(turns), target, turns)
        except RefusedTurnsError as error:
            raise PipelineError(
                f"task.messages_column: the model's chat template refuses example {row['id']}: "
                f"{error.reason}; mend the data, or use another model"
            ) from error
        return {**example, "turns": json.dumps(turns, ensure_ascii=False)}

    def _tokenized(
        self, row: Mapping[str, Any], shown: str, target: str, turns: Turns | None = None
    ) -> TokenizedExample:
        if not target.strip():
            key = "target_template" if turns is None else "messages_column"
            raise EmptyRowError(f"task.{key}: the target of example {row['id']} is empty")
        extra: Any = {}
        if self.task.type == "causal_lm":
            prompt_ids = self.prompt_ids(shown if turns is None else turns)
            count = self.beginning_of(prompt_ids)
            # A chat template has tokens of its own around what is empty.
            is_empty = len(prompt_ids) == count
            extra |= {"beginning": count} if self._beginning else {}
        else:
            # An encoder's tokenizer puts special tokens around what is empty, too.
            is_empty = not self._encode(shown)
        if is_empty:
            raise EmptyRowError(f"task.input_template: the input of example {row['id']} is empty")
        if self.task.type == "causal_lm":
            target_ids = [*self._encode(target), *self.end_of_target]
        else:
            prompt_ids, target_ids, positions = input_and_target(
                self.task, self.tokenizer, self.labels, shown, target, row
            )
            extra |= {} if positions is None else {"positions": positions}
        column = self.task.references_column
        return {
            **extra,
            "id": str(row["id"]),
            "input_ids": prompt_ids + target_ids,
            "target_start": len(prompt_ids),
            "input": shown,
            "target": target,
            "references": [target] if column is None else references_of(column, row, target),
        }

    def _encode(self, text: str) -> list[int]:
        return self._encoder(text)

    @cached_property
    def _encoder(self) -> Callable[[str], list[int]]:
        return text_encoder(self.tokenizer)
