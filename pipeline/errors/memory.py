"""Memory that ran out, the machine's own or an accelerator's, and how each command takes less."""

import errno

# What torch says where it has no class for it: on Apple's MPS, on the CPU, and of what CUDA's
# libraries allocate for themselves.
_SIGNS = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
_LESS_TRAINING = (
    "halve train.batch_size and double train.gradient_accumulation_steps, which gives the same "
    "steps, set train.gradient_checkpointing: true, or lower memory.max_tokens_per_batch"
)
_LESS_MEASURING = (
    "lower memory.max_tokens_per_batch, which runs nothing else again, or set evaluate.device: cpu"
)
_REMEDIES = {
    **dict.fromkeys(("train", "train_baseline"), _LESS_TRAINING),
    **dict.fromkeys(("evaluate", "baselines", "in_context", "evaluate_baseline"), _LESS_MEASURING),
    "teach": (
        "lower memory.max_tokens_per_batch, which runs nothing else again, or set the teacher's "
        "device: cpu"
    ),
    "kv_prefix": "lower kv_prefix.max_length, or set kv_prefix.device: cpu",
    "self_study": "lower memory.max_tokens_per_batch, which runs nothing again, or chunk_tokens",
    "library_study": "lower memory.max_tokens_per_batch, which runs nothing again, or chunk_tokens",
    "library_train": _LESS_TRAINING.replace("train.", "library.train."),
    "library_together": "lower memory.max_tokens_per_batch, which runs nothing again",
    "generate": "lower --max-new-tokens, or set evaluate.device: cpu",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # torch's class is known by its name: this file is read before any command, torch is not.
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def how_to_save(error: BaseException, command: str | None) -> str:
    """One sentence with the remedy; `command` is the subcommand that had too little."""
    is_gpus = type(error).__name__ == "OutOfMemoryError" or any(
        name in str(error) for name in ("CUDA", "CUBLAS", "CUDNN", "MPS")
    )
    where = " on the GPU" if is_gpus else ""
    return f"out of memory{where}; {_REMEDIES.get(command or '', 'free some memory')}"
