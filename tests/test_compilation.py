"""A compiler that fails costs speed, and no training."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel
from pipeline.training import compilation
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from tests.conftest import tiny_model

Compiler = Callable[[torch.fx.GraphModule, Any], Any]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which every training is worth compiling, and can be as far as is known.

    An earlier training of the process was compiled.
    """
    monkeypatch.setattr(compilation, "missing_compiler", lambda: None)
    monkeypatch.setattr(compilation, "_STEPS_THAT_PAY", 1)
    with torch._dynamo.config.patch(suppress_errors=True):
        yield


def compile_by(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `torch.compile` hand its graphs to this compiler in place of inductor."""
    given = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda what, **how: given(what, **{**how, "backend": compiler})
    )


def broken(graph: torch.fx.GraphModule, _: Any) -> Any:
    raise RuntimeError("g++: fatal error: no input files\ncompilation terminated.")


def train(compile: Literal["auto"] | bool) -> tuple[TrainingResult, PrefixModel]:
    torch.manual_seed(0)
    model = PrefixModel(tiny_model(), PrefixConfig(4, prefix_dropout=0.3))
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 250, (9 + i,), generator=draw).tolist() for i in range(6)]
    data = Dataset.from_list([{"input_ids": row, "target_start": 3} for row in rows])
    params = TrainParams(epochs=None, max_steps=3, batch_size=2, compile=compile)
    return train_prefix(model, data, data, params, 0, lambda *_: None), model


def _is_compiled(model: PrefixModel) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


def test_auto_trains_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one sentence, and to the bytes of a training that was never to be compiled."""
    compile_by(broken, monkeypatch)
    result, model = train("auto")
    said = [line for line in capsys.readouterr().out.splitlines() if "compile" in line]
    assert len(said) == 1
    assert said[0].startswith("warning: torch.compile fails on this machine (BackendCompilerFail")
    assert "g++: fatal error: no input files" in said[0]
    assert said[0].endswith("; the layers run uncompiled, more slowly")
    assert not _is_compiled(model)
    plain, _ = train(False)
    assert isinstance(result.prefix, KVPrefix)
    assert isinstance(plain.prefix, KVPrefix)
    assert torch.equal(torch.stack(result.prefix.keys), torch.stack(plain.prefix.keys))


def test_true_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_by(broken, monkeypatch)
    with pytest.raises(PipelineError) as refused:
        train(True)
    sentence = str(refused.value)
    assert sentence.startswith("train.compile: torch.compile fails on this machine (")
    assert sentence.endswith("; set it to auto or false")
    assert "\n" not in sentence


def test_no_memory_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compilation, "compile_layers", starved)
    with pytest.raises(torch.OutOfMemoryError):
        train(True)
