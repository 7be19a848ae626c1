"""Stage `train`: one variant's prefix against the frozen model."""

from pipeline import paths
from pipeline.atomic import atomic_folder
from pipeline.config import Params
from pipeline.initialization import start_prefix
from pipeline.prefix import PrefixModel
from pipeline.records import write_csv, write_json
from pipeline.task_type import load_for_task, prefix_config, task_of
from pipeline.tokenized import load_split
from pipeline.tracking.training_run import STEP_METRICS, TrainingRun
from pipeline.training.loop import train_prefix
from pipeline.variants import Variant


def run(params: Params, variant: Variant) -> None:
    """Write data/train/<variant>: the prefix, the loss history, and what training came to."""
    import pandas as pd

    splits = {
        name: load_split(paths.TOKENIZED / "splits", name) for name in ("train", "validation")
    }
    task = task_of(paths.TOKENIZED / "splits")
    frozen, new = load_for_task(paths.MODEL, params.train, task, variant.seed)
    config = prefix_config(params.prefix, variant.length, new)
    model = PrefixModel(frozen, config)
    model.load_kv_prefix(start_prefix(params, variant, model))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tracking = TrainingRun(params, variant)
    tracking.log_data(splits)
    try:
        result = train_prefix(
            model,
            splits["train"],
            splits["validation"],
            params.train,
            variant.seed,
            tracking.log_step,
        )
    except BaseException:
        tracking.fail()
        raise
    metrics = {"trainable_parameters": trainable, **result.metrics()}
    folder = paths.TRAIN / variant.name
    with atomic_folder(folder) as aside:
        result.prefix.save(aside / "prefix.safetensors")
        history = pd.DataFrame(result.history, columns=["step", *STEP_METRICS])
        write_csv(aside / "history.csv", history)
        write_json(aside / "metrics.json", metrics)
    tracking.finish(folder, metrics)
