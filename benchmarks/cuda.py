"""Whether the method gives the same numbers on a GPU as on a CPU, and how fast it trains there.

python -m benchmarks.cuda                  # needs torch and transformers alone
python -m benchmarks.cuda --device cpu --small

Prints a JSON object a line: laws first (largest differences, in float32), then training speed in
real tokens a second of packed rows and of padded batches, on random weights of the shape of
SmolLM2-135M.
A failing check is a line with its error, and the exit code is 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SMALL = {**SMOLLM2, "vocab_size": 512, "num_hidden_layers": 2}
# WebNLG's lengths are about these.
LENGTHS = (61, 83, 70, 96, 55, 78, 88, 64)


def build(small: bool, dtype: torch.dtype, device: str) -> LlamaForCausalLM:
    """Random weights, the same on every device."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(SMALL if small else SMOLLM2)))
    return model.eval().to(dtype).to(device)


def rows(model: LlamaForCausalLM, copies: int = 1) -> list[torch.Tensor]:
    """Examples of `LENGTHS` tokens, on the model's device."""
    draw = torch.Generator().manual_seed(1)
    most = model.config.vocab_size
    ids = [torch.randint(most, (n,), generator=draw) for n in LENGTHS * copies]
    return [row.to(model.device) for row in ids]


def packed_loss(model: PrefixModel, examples: list[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of every next token, examples in one row."""
    ids, lengths = torch.cat(examples), [len(row) for row in examples]
    ends = torch.tensor(lengths, device=ids.device).cumsum(0) - 1
    keep = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    keep[ends] = False
    at = keep.nonzero().squeeze(1)
    return F.cross_entropy(model.packed_logits(ids, lengths, at).float(), ids[at + 1])


def padded_loss(model: PrefixModel, examples: list[torch.Tensor]) -> torch.Tensor:
    """The same of examples padded on the left."""
    width = max(map(len, examples))
    ids = torch.stack([F.pad(row, (width - len(row), 0)) for row in examples])
    mask = torch.stack([F.pad(torch.ones_like(row), (width - len(row), 0)) for row in examples])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    chosen = mask[:, :-1].bool()
    return F.cross_entropy(logits[chosen].float(), ids[:, 1:][chosen])


Loss = Callable[[PrefixModel, list[torch.Tensor]], torch.Tensor]


def gradient(model: PrefixModel, loss: Loss, examples: list[torch.Tensor]) -> torch.Tensor:
    """The gradient of the prefix, flat."""
    model.zero_grad()
    loss(model, examples).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).float()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((one.cpu() - other.cpu()).abs().max() / other.abs().max().cpu())


def laws(device: str, small: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The checks, each with its name."""
    frozen = build(small, torch.float32, device)
    text = rows(frozen)[0][:32]
    examples = rows(frozen)[1:4]
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=len(text)))
    model.load_kv_prefix(kv_prefix_from_tokens(frozen, text))

    def identity() -> dict[str, Any]:
        row = examples[0]
        with torch.no_grad():
            whole = frozen(input_ids=torch.cat([text, row])[None]).logits[0, len(text) :]
            padded = model(input_ids=row[None]).logits[0]
            packed = model.packed_logits(row, [len(row)], torch.arange(len(row), device=device))
        return {"padded": relative(padded, whole), "packed": relative(packed, whole)}

    def generation() -> dict[str, Any]:
        row, settings = examples[0], {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
        ids = torch.cat([text, row])[None]
        theirs = frozen.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        own = row[None]
        ours = model.generate(input_ids=own, attention_mask=torch.ones_like(own), **settings)
        return {"equal": torch.equal(theirs[0, ids.shape[1] :], ours[0, len(row) :])}

    def gradients() -> dict[str, Any]:
        packed = gradient(model, packed_loss, examples)
        padded = gradient(model, padded_loss, examples)
        return {"packed against padded": relative(packed, padded)}

    def checkpointing() -> dict[str, Any]:
        before = {f.__name__: gradient(model, f, examples) for f in (packed_loss, padded_loss)}
        model.gradient_checkpointing_enable()
        model.train()
        after = {f.__name__: gradient(model, f, examples) for f in (packed_loss, padded_loss)}
        frozen.gradient_checkpointing_disable()
        model.eval()
        return {name: relative(after[name], before[name]) for name in before}

    def against_cpu() -> dict[str, Any]:
        other = PrefixModel(build(small, torch.float32, "cpu"), model.prefix_config)
        kv = model.kv_prefix()
        assert kv is not None, "it was loaded above"
        other.load_kv_prefix(kv.to("cpu"))
        theirs = gradient(other, padded_loss, [row.cpu() for row in examples])
        return {"gradient": relative(gradient(model, packed_loss, examples), theirs)}

    yield from {
        "identity": identity,
        "generation": generation,
        "packed": lambda: {"why not": model.why_not_packed(), "of": str(frozen.dtype)},
        "gradients": gradients,
        "checkpointing": checkpointing,
        "against the CPU": against_cpu,
    }.items()


def speed(device: str, small: bool, p: int, copies: int, loss: Loss) -> dict[str, Any]:
    """Real tokens a second over ten steps of AdamW, after three; peak memory above the model."""
    frozen = build(small, torch.bfloat16, device)
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=p))
    examples = rows(frozen, copies)
    optimizer = torch.optim.AdamW([q for q in model.parameters() if q.requires_grad], lr=1e-3)
    on_gpu = device.startswith("cuda")
    seconds = []
    for step in range(13):
        if step == 3 and on_gpu:
            torch.cuda.reset_peak_memory_stats()
            resting = torch.cuda.memory_allocated()
        began = time.perf_counter()
        loss(model, examples).backward()
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    tokens = sum(map(len, examples))
    memory = torch.cuda.max_memory_allocated() - resting if on_gpu else None
    return {
        "tokens a second": round(tokens / median(seconds[3:])),
        "first step (s)": round(seconds[0], 2),
        "peak MB above model": None if memory is None else round(memory / 1e6),
    }


def main() -> int:
    """Returns 1 when a check raised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="two layers, for a try on a CPU")
    arguments = parser.parse_args()
    device, small, failed = arguments.device, arguments.small, False
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    checks: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("machine", lambda: {"device": name, "torch": torch.__version__}),
        *laws(device, small),
    ]
    for p in (16, 512):
        for copies in (1, 16):
            for loss in (packed_loss, padded_loss):
                what = f"{loss.__name__}, p={p}, {len(LENGTHS) * copies} examples a step"
                checks.append(
                    (what, lambda p=p, c=copies, f=loss: speed(device, small, p, c, f))  # type: ignore[misc]
                )
    for what, check in checks:
        began = time.perf_counter()
        try:
            found = check()
        except Exception as error:  # the next check may still tell something
            failed, found = True, {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        line = {"check": what, **found, "seconds": round(time.perf_counter() - began, 1)}
        print(json.dumps(line), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
