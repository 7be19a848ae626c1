"""Where each stage writes, relative to the repository's root (the folder DVC runs stages in)."""

from pathlib import Path

PARAMS = Path("params.yaml")
DATA = Path("data")
MODEL = DATA / "model"
RAW_DATA = DATA / "raw"
SELF_STUDY = DATA / "self_study"
TOKENIZED = DATA / "tokenized"
KV_PREFIX = DATA / "kv_prefix"
BASELINE_START = DATA / "baseline_start"
TEACHERS = DATA / "teachers"
TRAIN = DATA / "train"
EVALUATE = DATA / "evaluate"
LIBRARY = DATA / "library"
LIBRARY_STUDY = LIBRARY / "study"
LIBRARY_TOKENIZED = LIBRARY / "tokenized"
LIBRARY_ALONE = LIBRARY / "alone"
LIBRARY_AMONG = LIBRARY / "among"
LIBRARY_TOGETHER = LIBRARY / "together"
INSPECTION = DATA / "inspection"
BEST_INSPECTION = INSPECTION / "best"
STARTS = INSPECTION / "starts.csv"
REPORT = DATA / "report"
DVC = DATA / "dvc"
TIMINGS = DATA / "timings"

# Beside what was fetched from the Hub: the commit that it is from.
SOURCE = Path("source.json")

# Below the folder of a self-study: the person's own questions for the test.
HELD_OUT = Path("held_out")

# No outputs of a stage; below the home of a temporary workspace (pipeline/workspace/location.py).
WORKSPACE = DATA / "workspace.json"
CHECKSUMS = DATA / "checksums.json"
CHECKPOINTS = DATA / "checkpoints"
OUTBOX = DATA / "outbox"
