"""What variants are measured against, untrained: the `baselines` section."""

from pipeline.baselines.table import AnyUntrainedBaseline
from pipeline.schema.section import Name

UntrainedBaselines = dict[Name, AnyUntrainedBaseline]
