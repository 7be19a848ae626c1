"""A training whose numbers go bad keeps what it had come to before."""

from pathlib import Path

import pytest
import torch

from pipeline.config.train import TrainParams
from pipeline.errors import DivergedError
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import KVPrefix, PrefixConfig
from pipeline.training.checkpoint import BEST, CheckpointFolder
from tests.faults.test_kills import train


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 5000.0])
def test_the_last_good_state_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    config = PrefixConfig(num_virtual_tokens=4, prefix_dropout=0.2)
    params = TrainParams(epochs=None, max_steps=8, batch_size=2, eval_every_steps=2)
    whole = train(config, params)
    folder = CheckpointFolder(tmp_path / "x", "digest", 3)
    real, calls = TargetLoss.__call__, 0

    def failing(self: TargetLoss, examples: object, weight: float = 1.0) -> torch.Tensor:
        nonlocal calls
        loss = real(self, examples, weight)  # type: ignore[arg-type]
        if not torch.is_grad_enabled():
            return loss
        calls += 1
        return loss * 0 + bad if calls == 6 else loss

    with monkeypatch.context() as patch:
        patch.setattr(TargetLoss, "__call__", failing)
        with pytest.raises(DivergedError, match=r"train\.learning_rate: at step 6 the loss is"):
            train(config, params, folder)
    kept = KVPrefix.load(folder.folder / BEST)
    assert torch.isfinite(kept.keys[0]).all()
    # The numbers are good again: on with step 6, as if nothing had been.
    resumed = train(config, params, folder)
    assert resumed.history == whole.history
    assert isinstance(resumed.prefix, KVPrefix)
    assert isinstance(whole.prefix, KVPrefix)
    assert all(map(torch.equal, resumed.prefix.keys, whole.prefix.keys))
