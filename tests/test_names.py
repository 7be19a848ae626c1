"""A name that params.yaml takes is one that MLflow takes, and finds again."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.utils.validation import (
    _validate_experiment_name,
    _validate_model_name,
    _validate_param_name,
)
from pydantic import ValidationError

from pipeline.config.mlflow import MLflowParams
from pipeline.tracking import store
from pipeline.tracking.named_prefixes import NamedPrefixes
from pipeline.tracking.runs import flatten

REFUSED = ("", " ", "a/b", "a:b", ".", "..", "..a", "a?b", "a" * 257, "a\nb", "\x00")
TAKEN = ("tiny", "my models", "catalog.schema.tiny", "é", "x'y", "a@b", "a%2Fb", "a#b", ".a", "a.")


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        MLflowParams(registered_model=name)


@given(st.text(max_size=12) | st.text(alphabet="a./: ?#@%;[]", max_size=6))
@example("a;b")
def test_every_other_is_a_models(name: str) -> None:
    try:
        model = MLflowParams(experiment=name)
    except ValidationError:
        return
    _validate_experiment_name(model.experiment)
    _validate_model_name(model.model_name)
    found = _parse_model_uri(f"models:/{model.model_name}@best")
    assert (found.name, found.alias) == (name, "best")


@pytest.mark.parametrize("name", TAKEN)
def test_no_name_is_refused_that_mlflow_takes(name: str) -> None:
    assert MLflowParams(experiment=name).model_name == name
    assert MLflowParams(experiment="a/b", registered_model=name).model_name == name


@given(st.dictionaries(st.text(alphabet="aé_$/.: ", max_size=4), st.integers(), max_size=2))
@example({"a$": 1})
@example({"..": 1})
def test_variables_of_a_chat_template_may_be_called_anything(variables: dict[str, int]) -> None:
    """MLflow would take none of a run's params beside one whose name it refuses."""
    section = {"task": {"kwargs": variables, "more": {"deep": variables}}, "seed": 0}
    flat = flatten(section)
    for key in flat:
        _validate_param_name(key)
    assert flat["seed"] == 0
    assert flatten({"task": {"kwargs": {"a": 1}}}) == {"task.kwargs.a": 1}


@pytest.mark.parametrize("name", ["/etc/tiny", "../../tiny", "..", "a/b:c?d", "tiny"])
def test_artifacts_of_a_temporary_workspace_stay_below_mlruns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the experiment is called."""
    made = {}

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, artifact_location: str) -> None:
            made[name] = artifact_location

    monkeypatch.setattr(store, "MlflowClient", Client)
    monkeypatch.setattr(store.mlflow, "set_tracking_uri", lambda uri: None)
    store._use_store_at(tmp_path, name)
    assert made[name].startswith(f"{(tmp_path / 'mlruns').as_uri()}/")
    below = made[name].removeprefix(f"{(tmp_path / 'mlruns').as_uri()}/")
    assert "/" not in below
    assert below.strip(".")


@pytest.mark.parametrize("name", ["", "len8-random-seed0-lr0.01", "len8-random-seed0-lr0_01"])
def test_a_served_version_answers_to_its_name_and_its_alias(name: str) -> None:
    """Itself: neither is looked up, nor loaded beside it."""
    own: Any = object()
    assert NamedPrefixes(own, {"variant": "len8-random-seed0-lr0.01"}).generator(name) is own
