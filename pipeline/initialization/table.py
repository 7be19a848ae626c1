"""The table of initialisations: a row each, from which params.yaml's schema is made."""

from typing import TYPE_CHECKING

from pipeline.initialization.attention_matching import AttentionMatching
from pipeline.initialization.averaged_chunks import AveragedChunks
from pipeline.initialization.best_chunk import BestChunk
from pipeline.initialization.chosen_demonstrations import ChosenDemonstrations
from pipeline.initialization.corpus_chunks import CorpusChunks
from pipeline.initialization.corpus_text import CorpusText
from pipeline.initialization.demonstrations import Demonstrations
from pipeline.initialization.most_attended import MostAttended
from pipeline.initialization.prefix_file import PrefixFile
from pipeline.initialization.random import Random
from pipeline.initialization.start import Start
from pipeline.initialization.trained_variant import TrainedVariant
from pipeline.initialization.vocabulary import Vocabulary
from pipeline.initialization.zero import Zero
from pipeline.schema.alternatives import one_of

INITIALIZATIONS: tuple[type[Start], ...] = (
    Random,
    Zero,
    Vocabulary,
    CorpusText,
    CorpusChunks,
    AveragedChunks,
    BestChunk,
    Demonstrations,
    ChosenDemonstrations,
    MostAttended,
    AttentionMatching,
    PrefixFile,
    TrainedVariant,
)

if TYPE_CHECKING:
    Initialization = Start
else:
    Initialization = one_of(INITIALIZATIONS)
