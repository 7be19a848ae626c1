"""The other prefixes of a registered model, found by alias where one of its versions is served."""

import json
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.config.task import TaskParams
from pipeline.inference.generator import TextGenerator
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import KVPrefix
from pipeline.tracking.aliases import alias_of


class NamedPrefixes:
    """Generators of one frozen model, a prefix each. Safe under threads.

    Args:
        own: of the version that is served.
        settings: of that version, as it was logged with: `registered_model` names what its aliases
            are of, and every prefix has to be of its frozen model.
    """

    def __init__(self, own: TextGenerator, settings: Mapping[str, Any]) -> None:
        self._own, self._settings = own, settings
        self._known: dict[str, TextGenerator] = {}
        self._loading = threading.Lock()

    def generator(self, name: str) -> TextGenerator:
        """What answers with the prefix of a variant's name, its alias, or `best`; "" for its own.

        An alias is looked up for each request, and a version loaded once. Raises MlflowException,
        which a client is told, where there is none, or it is of another frozen model.
        """
        if not name or alias_of(name) == alias_of(self._settings["variant"]):
            return self._own
        registered = self._settings["registered_model"]
        try:
            version = MlflowClient().get_model_version_by_alias(registered, alias_of(name)).version
        except MlflowException as error:
            raise MlflowException.invalid_parameter_value(
                f"prefix: {registered} has no version with the alias '{alias_of(name)}'"
            ) from error
        # Whoever comes meanwhile waits, and loads nothing twice.
        with self._loading:
            if version not in self._known:
                self._known[version] = self._load(f"models:/{registered}/{version}")
            return self._known[version]

    def _load(self, uri: str) -> TextGenerator:
        artifacts = Model.load(uri).flavors["python_function"]["artifacts"]
        with tempfile.TemporaryDirectory() as folder:

            def fetched(name: str) -> Path:
                source = f"{uri}/{artifacts[name]['path']}"
                return Path(mlflow.artifacts.download_artifacts(source, dst_path=folder))

            settings = json.loads(fetched("settings").read_text(encoding="utf-8"))
            kv = KVPrefix.load(fetched("prefix"))
        if settings["frozen_model_sha256"] != self._settings["frozen_model_sha256"]:
            raise MlflowException.invalid_parameter_value(
                f"prefix: {uri} is of another frozen model than the one that is served; serve it "
                "by its own alias"
            )
        frozen = self._own.model.frozen_model
        model = prefixed_model(frozen, kv, settings["prefix_always_visible"])
        return TextGenerator(model, self._own.tokenizer, TaskParams(**settings["task"]))
