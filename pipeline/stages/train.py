"""Stage `train`: one variant's prefix against the frozen model."""

from pipeline import paths
from pipeline.atomic import atomic_folder
from pipeline.config import Params
from pipeline.frozen_model import load_frozen_model
from pipeline.initialization import start_prefix
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.records import write_csv, write_json
from pipeline.timings import TrainingClock
from pipeline.tokenized import load_split
from pipeline.tracking.training_run import STEP_METRICS, TrainingRun
from pipeline.training.loop import train_prefix
from pipeline.training.subset import subset
from pipeline.variants import Variant


def run(params: Params, variant: Variant) -> None:
    """Write data/train/<variant>: the prefix, the loss history, and what training came to."""
    import pandas as pd

    splits = {
        name: load_split(paths.TOKENIZED / "splits", name) for name in ("train", "validation")
    }
    frozen = load_frozen_model(paths.MODEL, params.train)
    config = PrefixConfig(num_virtual_tokens=variant.length, **params.prefix.model_dump())
    model = PrefixModel(frozen, config)
    model.load_kv_prefix(start_prefix(params, variant, model))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    splits["train"] = subset(splits["train"], variant.train_size, variant.seed)
    tracking = TrainingRun(params, variant)
    tracking.log_data(splits)
    clock = TrainingClock(tracking.log_step)
    try:
        result = train_prefix(
            model,
            splits["train"],
            splits["validation"],
            params.train,
            variant.seed,
            clock.log_step,
        )
    except BaseException:
        tracking.fail()
        raise
    metrics = {
        "trainable_parameters": trainable,
        "train_size": len(splits["train"]),
        **result.metrics(),
    }
    folder = paths.TRAIN / variant.name
    with atomic_folder(folder) as aside:
        result.prefix.save(aside / "prefix.safetensors")
        history = pd.DataFrame(result.history, columns=["step", *STEP_METRICS])
        write_csv(aside / "history.csv", history)
        metrics["stored_bytes"] = (aside / "prefix.safetensors").stat().st_size
        write_json(aside / "metrics.json", metrics)
    clock.record(variant.name)
    tracking.finish(folder, metrics)
