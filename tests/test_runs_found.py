"""Runs in MLflow are found however many there are."""

from unittest import mock

import pytest
from mlflow.store.entities import PagedList

from pipeline.tracking import state


def test_runs_beyond_a_page_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {None: PagedList(["a", "b"], "second"), "second": PagedList(["c"], None)}
    client = mock.Mock()
    client.search_runs = lambda *_, page_token, **__: pages[page_token]
    monkeypatch.setattr(state, "MlflowClient", lambda: client)
    assert state.runs_where("0", "tags.state = 'current'", "here") == ["a", "b", "c"]
