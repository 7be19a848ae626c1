"""One system in a process of its own, so that its memory can be told from the others'.

Reads commands from standard input, a JSON object a line, and answers each with one.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.systems import NEW_TOKENS, Ours, Peft, System, real_tokens

MEGABYTE = 2**20


def main() -> None:
    """Serve `step` (batches) and `evaluate` (rows) until standard input ends."""
    name, p, folder, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    from benchmarks.examples import examples
    from pipeline.prefix import kv_prefix_from_tokens

    frozen = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    frozen.requires_grad_(False).eval()
    frozen.generation_config.eos_token_id = None
    rows = examples(800, frozen.config.vocab_size, seed)
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(100, frozen.config.vocab_size, (p,), generator=draw)
    start = kv_prefix_from_tokens(frozen, text)
    system: System
    if name == "ours":
        system = Ours(frozen, p, rows, start, compiled=True)
    else:
        system = Peft(frozen, p, rows, start, grouped=name == "peft_grouped")
    held = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # Let the peak start anew.
    _say({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        begin = time.perf_counter()
        if "steps" in command:
            tokens = sum(system.step() for _ in range(command["steps"]))
            answer: dict[str, Any] = {"tokens": tokens}
        else:
            chosen = rows[: command["evaluate"]]
            loss = system.evaluate(chosen)
            answer = {"tokens": real_tokens(chosen) + NEW_TOKENS * len(chosen), "loss": loss}
        seconds = time.perf_counter() - begin
        _say({**answer, "seconds": seconds, "peak_megabytes": (_peak() - held) / MEGABYTE})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
