"""The same questions to the frozen model alone and with a trained prefix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from tabulate import tabulate

from pipeline.config import Params
from pipeline.data.beginning import following
from pipeline.data.splits import load_split
from pipeline.data.spread import spread
from pipeline.data.task_type import task_of
from pipeline.evaluation.measure import measure_split
from pipeline.evaluation.metrics import scores
from pipeline.loss.for_model import is_classifier
from pipeline.metrics.metric import OfLabels
from pipeline.metrics.table import METRICS, names_of
from pipeline.models.for_task import load_for_task
from pipeline.models.prefixed import prefixed_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths

_SHOWN = 4
"""Questions whose answers are printed; the figures are of all that were asked."""

_WIDTH = 90  # characters of a text

_TELLING = 20  # characters of a last paragraph that says by itself what is asked


@dataclass(frozen=True)
class SideBySide:
    """Lines as those of predictions.jsonl, of the same examples in the same order."""

    variant: Variant
    split: str
    alone: Sequence[Mapping[str, Any]]
    prefixed: Sequence[Mapping[str, Any]]
    metrics: Sequence[str]
    """The names of the metrics of the answers; the loss is measured in any case."""

    def answers(self) -> str:
        """A few questions with the reference and both answers, in the split's order.

        They are the first of those asked, whoever answers them well.
        """
        blocks = []
        for alone, prefixed in list(zip(self.alone, self.prefixed, strict=True))[:_SHOWN]:
            answers = (("model alone", alone), ("with prefix", prefixed))
            lines = [_question(alone["input"]), _said("reference", " | ".join(alone["references"]))]
            for who, line in answers:
                is_right = line["prediction"] in line["references"]
                lines.append(_said(who, line["prediction"]) + ("  ✓" if is_right else ""))
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def figures(self) -> str:
        """Loss and the metrics of the answers over all questions, a line for either model."""
        chosen = ["loss", *(name for name in self.metrics if METRICS[name].restates is None)]
        asked = f"{len(self.alone)} questions of {self.split}"
        rows = []
        for who, lines in (("model alone", self.alone), (self.variant.name, self.prefixed)):
            measured = scores(lines, self.metrics)
            rows.append([who, *(METRICS[name].shown(measured[name]) for name in chosen)])
        return tabulate(
            rows,
            [asked, *(METRICS[name].title for name in chosen)],
            tablefmt="simple",
            disable_numparse=True,
        )


def side_by_side(params: Params, variant: Variant, questions: int) -> SideBySide:
    """Ask both as many questions, spread over the first split that is reported.

    Generation is that of the stage `evaluate`. Raises PipelineError or PrefixError when the
    variant, the model or the data is missing or does not fit.
    """
    use_backend(params.hardware.attention)
    name = params.evaluate.splits[0]
    split = load_split(paths.TOKENIZED / "splits", name)
    split = split.select(spread(len(split), questions))
    task = task_of(paths.TOKENIZED / "splits")
    frozen, _ = load_for_task(paths.MODEL, params.evaluate, task, variant.seed, params.device_map)
    kv = KVPrefix.load(paths.TRAIN / variant.name / "prefix.safetensors")
    tokenizer = load_tokenizer(paths.MODEL)
    answered: list[list[dict[str, Any]]] = []
    # The model alone first: with the prefix comes the head that was trained with it.
    for prefix in (None, kv):
        model = prefixed_model(frozen, prefix, params.prefix.prefix_always_visible)
        rows, _ = measure_split(
            model.eval(),
            tokenizer,
            params.evaluate,
            name,
            following(split, model.begins_text),
            params.memory.max_tokens_per_batch,
            task.end,
        )
        answered.append(rows)
    metrics = names_of(OfLabels) if is_classifier(model) else params.evaluate.metrics
    return SideBySide(variant, name, answered[0], answered[1], metrics)


def _question(text: str) -> str:
    """The last paragraph of an input, where a question stands, or of a long text its end."""
    last = " ".join(text.rpartition("\n\n")[2].split())
    line = last if len(last) >= _TELLING else " ".join(text.split())
    return line if len(line) <= _WIDTH else f"... {line[4 - _WIDTH :].partition(' ')[2]}"


def _said(who: str, text: str) -> str:
    return f"  {who:<12} {shorten(text, _WIDTH, placeholder=' ...') or '(nothing)'}"
