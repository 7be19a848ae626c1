"""From a row of data to the text and the tokens that the frozen model sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from pipeline.config.task import TaskParams
from pipeline.data.example import TokenizedExample
from pipeline.data.references import references_of
from pipeline.data.targets import end_of_target, input_and_target
from pipeline.data.templates import EmptyRowError, render
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Renderer:
    """Renders rows by `task`; `key` names where a template stands, for error messages."""

    task: TaskParams
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...] = ()

    def tokenize(self, row: Mapping[str, Any]) -> TokenizedExample:
        """Render and tokenize one row.

        Raises PipelineError for a column that it lacks, and EmptyRowError when its input has no
        tokens or its target no text.
        """
        shown, target = self.texts(row)
        return self._tokenized(row, shown, target)

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

    def _tokenized(self, row: Mapping[str, Any], shown: str, target: str) -> TokenizedExample:
        if not target.strip():
            raise EmptyRowError(f"task.target_template: the target of example {row['id']} is empty")
        positions = None
        if self.task.type == "causal_lm":
            prompt_ids = self.prompt_ids(shown)
        else:
            # An encoder's tokenizer puts special tokens around what is empty, too.
            prompt_ids = self._encode(shown)
        if not prompt_ids:
            raise EmptyRowError(f"task.input_template: the input of example {row['id']} is empty")
        if self.task.type == "causal_lm":
            target_ids = [*self._encode(target), end_of_target(self.tokenizer)]
        else:
            prompt_ids, target_ids, positions = input_and_target(
                self.task, self.tokenizer, self.labels, shown, target, row
            )
        column = self.task.references_column
        extra: Any = {} if positions is None else {"positions": positions}
        return {
            **extra,
            "id": str(row["id"]),
            "input_ids": prompt_ids + target_ids,
            "target_start": len(prompt_ids),
            "input": shown,
            "target": target,
            "references": [target] if column is None else references_of(column, row, target),
        }

    def texts(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """The row's input and target as text, without the chat template."""
        return (
            render(self.task.input_template, row, "task.input_template"),
            render(self.task.target_template, row, "task.target_template"),
        )

    def prompt_ids(self, shown: str) -> list[int]:
        """The tokens of a rendered input that the model continues, or that its encoder reads."""
        if self.task.type != "causal_lm":
            return list(self.tokenizer(shown)["input_ids"])
        return self._encode(self._prompt(shown))

    def demonstrations(self, rows: Sequence[Mapping[str, Any]], template: str | None) -> str:
        """The rows one after another as one text.

        With a template each row is rendered by it, blank lines between; without one, as the task
        renders input and target, which under a chat template is one conversation of many turns.
        """
        if template is not None:
            key = "initializations.<name>.template"
            return "\n\n".join(render(template, row, key) for row in rows) + "\n\n"
        pairs = [self.texts(row) for row in rows]
        if not self.task.use_chat_template:
            return "\n\n".join(shown + target for shown, target in pairs) + "\n\n"
        turns = self._system()
        for shown, target in pairs:
            turns.append({"role": "user", "content": shown})
            turns.append({"role": "assistant", "content": target})
        return self._chat(turns, add_generation_prompt=False)

    def _prompt(self, shown: str) -> str:
        if not self.task.use_chat_template:
            return shown
        turns = [*self._system(), {"role": "user", "content": shown}]
        return self._chat(turns, add_generation_prompt=True)

    def _system(self) -> list[dict[str, str]]:
        if self.task.system_prompt is None:
            return []
        return [{"role": "system", "content": self.task.system_prompt}]

    def _chat(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise PipelineError(
                "task.use_chat_template: the model's tokenizer has no chat template; set it to "
                "false, or use an instruction-tuned model"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise PipelineError(
                f"task.use_chat_template: the model's chat template refuses: {error}; set it to "
                "false, or leave out task.system_prompt"
            ) from error
        return str(text)

    def _encode(self, text: str) -> list[int]:
        # The chat template already holds the special tokens; a plain input starts without any,
        # since in the model's eyes a prefix stands before it.
        return list(self.tokenizer.encode(text, add_special_tokens=False))
