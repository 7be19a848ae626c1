"""The tables of baselines: a row each, from which params.yaml's schema is made."""

from typing import TYPE_CHECKING

from pipeline.baselines.adapter import Adapter
from pipeline.baselines.few_shot import FewShot
from pipeline.baselines.full_fine_tuning import FullFineTuning
from pipeline.baselines.in_context import InContext
from pipeline.baselines.lora import Lora
from pipeline.baselines.no_prefix import NoPrefix
from pipeline.baselines.prefix_and_lora import PrefixAndLora
from pipeline.baselines.prompt_tuning import PromptTuning
from pipeline.baselines.retrieval import Retrieval
from pipeline.baselines.trained import TrainedBaseline
from pipeline.baselines.untrained import UntrainedBaseline
from pipeline.baselines.untrained_start import UntrainedStart
from pipeline.schema.alternatives import one_of

UNTRAINED_BASELINES: tuple[type[UntrainedBaseline], ...] = (
    *(NoPrefix, FewShot, InContext, Retrieval, UntrainedStart, Adapter),
)
TRAINED_BASELINES: tuple[type[TrainedBaseline], ...] = (
    *(Lora, PromptTuning, PrefixAndLora, FullFineTuning),
)

if TYPE_CHECKING:
    AnyUntrainedBaseline = UntrainedBaseline
    AnyTrainedBaseline = TrainedBaseline
else:
    AnyUntrainedBaseline = one_of(UNTRAINED_BASELINES)
    AnyTrainedBaseline = one_of(TRAINED_BASELINES)
