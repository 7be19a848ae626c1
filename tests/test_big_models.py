"""A sweep of a model that is spread, or quantized, by DVC: what runs again, and what comes out."""

import json
from typing import Any

import pytest

from tests.conftest import DEAR, Workspace
from tests.sweep_runs import ran

pytestmark = pytest.mark.real

SPREAD = {
    **{"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"},
    **{"model.layers.1": "disk", "model.norm": "cpu", "lm_head": "disk"},
}


def test_another_place_of_the_model_fetches_it_and_no_more(copy: Workspace) -> None:
    before = _written(copy)
    copy.edit(lambda params: params["model"].update(device_map=SPREAD))
    # The report runs too, whose page shows the section.
    assert ran(copy.run("dvc", "repro", "inspect").stdout) == {"fetch_model"}
    # Trained again where the model is spread, a variant is what it was.
    copy.run("dvc", "repro", "--force", "--single-item", "train@2-corpus-0")
    assert _written(copy) == before


@DEAR
def test_a_quantized_model_runs_all_again(copy: Workspace) -> None:
    before = _written(copy)

    def quantize(params: dict[str, Any]) -> None:
        params["model"]["quantization"] = {"library": "torchao", "bits": 8}
        params["sweep"]["in_context"] = ["corpus"]
        params["sweep"]["lengths"] = [2]
        params["sweep"]["initializations"] = ["corpus"]

    copy.edit(quantize)
    assert ran(copy.run("dvc", "repro").stdout) == {
        *("fetch_model", "tokenize", "kv_prefix@corpus", "kv_prefix@random", "train@2-corpus-0"),
        *("evaluate@2-corpus-0", "baselines@no_prefix", "in_context@2-corpus", "inspect", "report"),
    }
    after = _written(copy)
    assert after != before
    # Rounded to 8 bits the model is still nearly the same.
    assert abs(after["validation/best_loss"] - before["validation/best_loss"]) < 0.1


def _written(workspace: Workspace) -> dict[str, float]:
    text = (workspace.root / "data/train/len2-corpus-seed0/metrics.json").read_text()
    return dict(json.loads(text))
