"""Speed and memory against prefix length."""

from pathlib import Path
from typing import Any

LABELS = {"ours": "this project", "peft": "PEFT", "peft_grouped": "PEFT, length-grouped"}
STYLES = {"ours": ("#0072B2", "o"), "peft": ("#D55E00", "s"), "peft_grouped": ("#009E73", "^")}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of training's time per token and memory for each system."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (time, memory) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    lengths = [result["p"] for result in results]
    for name, (colour, marker) in STYLES.items():
        speed = [1000 / result[f"{name}_train_tokens_per_second"] for result in results]
        time.plot(lengths, speed, color=colour, marker=marker, label=LABELS[name])
        peak = [result[f"{name}_train_peak_megabytes"] for result in results]
        memory.plot(lengths, peak, color=colour, marker=marker, label=LABELS[name])
    time.set_ylabel("training time (ms per real token)")
    memory.set_ylabel("peak memory above the model (MB)")
    for axes in (time, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("prefix length (virtual tokens)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
