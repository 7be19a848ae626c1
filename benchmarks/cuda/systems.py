"""The ways that are compared: packed rows, padded batches, and PEFT; one prefix, one loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.systems import padded
from pipeline.data.batching import Example
from pipeline.evaluation.packed_batch import PackedBatch
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.parameters.flat import flatten

Rows = Sequence[Example]
# Virtual tokens that are drawn.
_DRAWN = 64


class Ours:
    """This project's training and measuring: packed rows where `packs`, else padded batches."""

    def __init__(self, frozen: PreTrainedModel, start: KVPrefix, packs: bool = True) -> None:
        # Made where it computes: a long prefix of a large model is gigabytes.
        with torch.device(frozen.device):
            self.model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=len(start)))
        self.model.load_kv_prefix(start)
        if packs and (reason := self.model.why_not_packed(decoding=True, tokens=200)) is not None:
            raise RuntimeError(f"packed rows do not serve this model: {reason}")
        self._loss, self._packs = TargetLoss(self.model), packs

    def loss(self, rows: Rows, weight: float) -> torch.Tensor:
        """The summed loss of the rows' targets, weighted."""
        if self._packs:
            return self._loss(rows, weight)
        inputs = _inputs(rows, self.model)
        loss: torch.Tensor = self.model(**inputs, use_cache=False).loss
        return loss * (_targets(rows) * weight)

    def logits(self, rows: Rows) -> torch.Tensor:
        """Those of every position of the rows, one row after another."""
        if not self._packs:
            return _of_rows(self.model(**_inputs(rows, self.model), use_cache=False).logits, rows)
        ids = torch.tensor([token for row in rows for token in row["input_ids"]])
        keep = torch.arange(len(ids), device=self.model.device)
        lengths = [len(row["input_ids"]) for row in rows]
        return self.model.packed_logits(ids.to(self.model.device), lengths, keep)

    @torch.inference_mode()
    def texts(self, rows: Rows, most: int) -> list[list[int]]:
        """Greedy continuations of the rows' inputs."""
        if self._packs:
            return PackedBatch(self.model, rows, most).continuations(most, set())
        return _generated(self.model, rows, most)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: the prefix, float32."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def gradient(self) -> torch.Tensor:
        """That of the prefix as PEFT lays it out, `[p, numbers of a virtual token]`."""
        kv = self.model.kv_prefix()
        assert kv is not None, "it was loaded"
        (parameter,) = self.parameters()
        assert parameter.grad is not None, "there was a backward pass"
        return parameter.grad.reshape(len(kv), -1)

    def leave(self) -> None:
        """Give the frozen model back as it was."""
        self.model.detach()


class Peft:
    """PEFT's prefix tuning, in the plain loop: padded batches, labels -100 outside the target."""

    def __init__(self, frozen: PreTrainedModel, start: KVPrefix) -> None:
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(start))
        with torch.device(frozen.device):
            self.model: Any = get_peft_model(frozen, config)
        (parameter,) = self.parameters()
        with torch.no_grad():
            parameter.copy_(flatten(start))

    def loss(self, rows: Rows, weight: float) -> torch.Tensor:
        """The summed loss of the rows' targets, weighted."""
        loss: torch.Tensor = self.model(**_inputs(rows, self.model)).loss
        return loss * (_targets(rows) * weight)

    def logits(self, rows: Rows) -> torch.Tensor:
        """Those of every position of the rows, one row after another."""
        return _of_rows(self.model(**_inputs(rows, self.model)).logits, rows)

    @torch.inference_mode()
    def texts(self, rows: Rows, most: int) -> list[list[int]]:
        """Greedy continuations of the rows' inputs."""
        return _generated(self.model, rows, most)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained: the prefix, float32."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def gradient(self) -> torch.Tensor:
        """That of the prefix, `[p, numbers of a virtual token]`."""
        (parameter,) = self.parameters()
        assert parameter.grad is not None, "there was a backward pass"
        return parameter.grad

    def leave(self) -> None:
        """Nothing: the frozen model was not changed."""


System = Ours | Peft
Make = Callable[[PreTrainedModel, KVPrefix], System]


def padded_ours(frozen: PreTrainedModel, start: KVPrefix) -> Ours:
    """This project's model in padded batches, which `generate` takes too."""
    return Ours(frozen, start, packs=False)


def start_of(frozen: PreTrainedModel, p: int) -> KVPrefix:
    """A seeded random prefix of the size of a text's keys and values, on the model's device.

    A long one repeats itself, which changes neither time nor memory.
    """
    draw = torch.Generator().manual_seed(0)
    drawn = random_kv_prefix(kv_shapes(frozen), min(p, _DRAWN), 0.5, draw).to(frozen.device)
    keys, values = (
        tuple(t.repeat(1, -(-p // _DRAWN), 1)[:, :p] for t in tensors)
        for tensors in (drawn.keys, drawn.values)
    )
    return KVPrefix(keys, values)


def _targets(rows: Rows) -> int:
    return sum(len(row["input_ids"]) - row["target_start"] for row in rows)


def _of_rows(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Those of real positions of rows that are padded on the right."""
    lengths = [len(row["input_ids"]) for row in rows]
    return torch.cat([own[:length] for own, length in zip(logits, lengths, strict=True)])


def _generated(model: Any, rows: Rows, most: int) -> list[list[int]]:
    shown = [{**row, "input_ids": row["input_ids"][: row["target_start"]]} for row in rows]
    inputs = {name: t.to(model.device) for name, t in padded(_plain(shown), side="left").items()}
    inputs.pop("labels")
    lengths = {"max_new_tokens": most, "min_new_tokens": most}
    ids = model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0)
    texts: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return texts


def _plain(rows: Rows) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]


def _inputs(rows: Rows, model: Any) -> dict[str, torch.Tensor]:
    return {name: t.to(model.device) for name, t in padded(_plain(rows), side="right").items()}
