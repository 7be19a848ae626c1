"""Other ways to adapt the frozen model, trained as the variants are: `trained_baselines`."""

from pipeline.baselines.table import AnyTrainedBaseline
from pipeline.schema.section import Name

TrainedBaselines = dict[Name, AnyTrainedBaseline]
