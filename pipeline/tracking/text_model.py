"""An MLflow model of a variant, text in and text out; MLflow runs this file to make one.

It is logged as code: nothing is pickled, and the copy of this package beside it is imported.
"""

import json
import os
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.config.task import TaskParams
from pipeline.inference.generator import Decoding, load_generator
from pipeline.prefix import KVPrefix
from pipeline.schema.compute import Compute
from pipeline.tracking.frozen_copy import check_frozen_model
from pipeline.tracking.named_prefixes import NamedPrefixes


class TextModel(PythonModel):
    """Answers each text as `python -m pipeline generate` does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the frozen model and the prefix.

        The frozen model is the copy among the artifacts, or else the folder that the environment
        variable FROZEN_MODEL, `model_config` or the run that logged this model names; its checksum
        has to be the one of that run. Raises PipelineError when it is not.
        """
        settings = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        copy, config = context.artifacts.get("frozen_model"), context.model_config or {}
        named = os.environ.get("FROZEN_MODEL") or config.get("frozen_model")
        folder = Path(copy or named or "")
        if copy is None:
            check_frozen_model(folder, settings["frozen_model_sha256"])
        self._max_new_tokens = settings["max_new_tokens"]
        own = load_generator(
            folder,
            TaskParams(**settings["task"]),
            Compute(**settings["compute"]),
            settings["prefix_always_visible"],
            lambda _: KVPrefix.load(context.artifacts["prefix"]),
            # Where it is served is another machine, which `model_config` may say more of.
            config.get("device_map"),
        )
        self._prefixes = NamedPrefixes(own, settings)

    # Without type hints on purpose: MLflow would draw a second signature from them.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """A text for each text of `model_input` (a list, or the first column of a table).

        `params` are those of `Decoding`, and `prefix`: the alias of the version whose prefix
        answers, "" for this one's.
        """
        given = {"max_new_tokens": self._max_new_tokens, **(params or {})}
        generator = self._prefixes.generator(given.pop("prefix", ""))
        return [generator(text, Decoding(**given)) for text in _texts(model_input)]


def _texts(model_input: Any) -> list[str]:
    if hasattr(model_input, "columns"):
        return [str(text) for text in model_input.iloc[:, 0]]
    return [str(text) for text in model_input]


mlflow.models.set_model(TextModel())
