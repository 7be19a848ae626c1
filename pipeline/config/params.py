"""The whole of params.yaml as one schema, with the checks that span sections."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.baselines import UntrainedBaselines
from pipeline.config.blocks import refuse_nothing_to_move
from pipeline.config.checkpoints import CheckpointParams
from pipeline.config.compared import (
    refuse_impossible_texts,
    refuse_misplaced_texts,
    refuse_twice_named,
    refuse_unknown_beginnings,
    refuse_unknown_starts,
)
from pipeline.config.data import CorpusData, DataParams, FileData
from pipeline.config.evaluate import NO_TEACHER, EvaluateParams
from pipeline.config.further_rates import refuse_further_rates
from pipeline.config.hardware import HardwareParams
from pipeline.config.idle_rates import refuse_idle_rates
from pipeline.config.initializations import Initializations
from pipeline.config.inspection import InspectionParams
from pipeline.config.kinds import refuse_unused_kinds
from pipeline.config.kv_prefix import KVPrefixParams
from pipeline.config.leave_one_out import refuse_nothing_to_leave_out
from pipeline.config.library import LibraryParams, refuse_impossible_library
from pipeline.config.machine import (
    refuse_attention_elsewhere,
    refuse_compiling_others,
    refuse_impossible_processes,
    refuse_two_places,
    refuse_unfit_for_quantized,
)
from pipeline.config.measured_splits import refuse_missing_splits
from pipeline.config.memory import MemoryParams
from pipeline.config.mlflow import MLflowParams
from pipeline.config.model import ModelParams
from pipeline.config.names import refuse_taken_names
from pipeline.config.needing_a_decoder import refuse_other_prefixes, refuse_what_needs_a_decoder
from pipeline.config.prefix import PrefixParams
from pipeline.config.report import ReportParams
from pipeline.config.self_study import (
    SelfStudies,
    asking_the_model,
    refuse_missing_summaries,
    refuse_unknown_study,
)
from pipeline.config.serving import ServingParams
from pipeline.config.sweep import SweepParams
from pipeline.config.swept import (
    refuse_too_large_sizes,
    refuse_unfit_lengths,
    refuse_unknown_initializations,
    refuse_unknown_variants,
)
from pipeline.config.task import TaskParams
from pipeline.config.taught import refuse_impossible_judges, refuse_impossible_teachers
from pipeline.config.teachers import Teachers
from pipeline.config.train import TrainParams
from pipeline.config.trained_baselines import TrainedBaselines
from pipeline.metrics.metric import OfText
from pipeline.metrics.table import names_of
from pipeline.schema.compute import Compute, DeviceMap
from pipeline.schema.section import Section


class Params(Section):
    """params.yaml: a section a stage, and what the stages share."""

    model: ModelParams
    data: DataParams
    # dvc.yaml has the same default, and of teachers and library.
    self_study: SelfStudies = Field(default_factory=dict)
    task: TaskParams
    initializations: Initializations
    sweep: SweepParams
    # No defaults for whole sections: DVC refuses a stage whose params are not in the file.
    kv_prefix: KVPrefixParams
    prefix: PrefixParams
    teachers: Teachers = Field(default_factory=dict)
    train: TrainParams
    library: LibraryParams = LibraryParams()
    checkpoints: CheckpointParams = CheckpointParams()
    memory: MemoryParams = MemoryParams()
    hardware: HardwareParams = HardwareParams()
    evaluate: EvaluateParams
    baselines: UntrainedBaselines
    trained_baselines: TrainedBaselines
    inspection: InspectionParams
    report: ReportParams
    mlflow: MLflowParams = MLflowParams()
    serving: ServingParams = ServingParams()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        refuse_unknown_initializations(self.sweep, self.initializations)
        return self

    @model_validator(mode="after")
    def _baselines_make_sense(self) -> Self:
        refuse_impossible_texts(self.sweep, self.initializations, self.baselines)
        refuse_twice_named(self.sweep, self.baselines, self.trained_baselines)
        refuse_misplaced_texts(self.baselines, self.task)
        cached = self.kv_prefix.max_length
        refuse_unknown_starts(self.baselines, self.initializations, cached)
        refuse_unknown_beginnings(self.trained_baselines, self.initializations, cached)
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_taken_names(self.baselines, self.trained_baselines, self.initializations)
        return self

    @model_validator(mode="after")
    def _a_library_is_possible(self) -> Self:
        refuse_impossible_library(self.library)
        return self

    @model_validator(mode="after")
    def _demonstrations_can_be_left_out(self) -> Self:
        refuse_nothing_to_leave_out(self.prefix, self.sweep, self.initializations, self.task)
        return self

    @model_validator(mode="after")
    def _files_are_watched(self) -> Self:
        if isinstance(self.data, FileData) and (found := self.data.unwatched()) is not None:
            raise ValueError(
                f"data.path: '{self.data.path}' does not hold data.files.{found[0]} = "
                f"'{found[1]}', so that DVC would not notice an edit of it; name a folder that "
                "holds every file"
            )
        return self

    @model_validator(mode="after")
    def _studied_corpus_exists(self) -> Self:
        if isinstance(self.data, CorpusData):
            refuse_unknown_study(self.data.path, self.self_study)
        read = {
            **{f"initializations.{name}.path": s.path for name, s in self.initializations.items()},
            **{f"teachers.{name}.path": t.path for name, t in self.teachers.items()},
            **{f"baselines.{name}.path": b.path for name, b in self.baselines.items()},
        }
        refuse_missing_summaries(read, self.self_study)
        return self

    @model_validator(mode="after")
    def _train_sizes_exist(self) -> Self:
        refuse_too_large_sizes(self.sweep, self.data)
        return self

    @model_validator(mode="after")
    def _what_dvc_watches_is_there(self) -> Self:
        if "objective" not in self.train.model_fields_set:
            raise ValueError(
                "train.objective: is missing, and DVC reads its path; add objective: {type: "
                "target, path: data/tokenized/splits/train}"
            )
        if "distractors" not in self.prefix.model_fields_set:
            raise ValueError(
                "prefix.distractors: is missing, and DVC reads its path; add distractors: {path: "
                "data/model/config.json}"
            )
        if "teacher" not in self.evaluate.model_fields_set:
            raise ValueError(
                "evaluate.teacher: is missing, and DVC reads it; add teacher: "
                f"{NO_TEACHER}, which stands for none"
            )
        refuse_impossible_teachers(self.teachers, self.train.objective, self.task)
        refuse_impossible_judges(self.teachers, self.evaluate)
        return self

    @model_validator(mode="after")
    def _suits_the_machine(self) -> Self:
        computing: dict[str, Compute] = {
            **{"kv_prefix": self.kv_prefix, "train": self.train, "evaluate": self.evaluate},
            **{f"teachers.{name}": teacher for name, teacher in self.teachers.items()},
            **asking_the_model(self.self_study),
            **self.library.computing(),
        }
        refuse_two_places(self.model, computing)
        refuse_unfit_for_quantized(self.model, self.trained_baselines)
        refuse_impossible_processes(self.hardware, self.model, self.train)
        refuse_compiling_others(self.model, self.train)
        refuse_compiling_others(self.model, self.library.train, "library.")
        del computing["kv_prefix"]  # which packs no rows
        refuse_attention_elsewhere(self.hardware, computing)
        return self

    @property
    def device_map(self) -> DeviceMap | None:
        """Where the frozen model lies, whatever its source; null for one device."""
        return self.model.device_map

    @property
    def metrics(self) -> list[str]:
        """What is measured: of the target, then of text, or of a classifier's labels."""
        return self.evaluate.measured(self.task.is_classification)

    @model_validator(mode="after")
    def _sorted_by_a_metric(self) -> Self:
        sort_by, measured = self.report.sort_by, self.metrics
        if sort_by in measured:
            return self
        add, where = "", f" for task.type: {self.task.type}"
        if not self.task.is_classification and sort_by in names_of(OfText):
            add, where = "add it to evaluate.metrics or ", ""
        raise ValueError(
            f"report.sort_by: '{sort_by}' is not measured{where}; {add}use one of: "
            f"{', '.join(measured)}"
        )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        refuse_unfit_lengths(self.sweep, self.initializations, self.kv_prefix, self.prefix)
        return self

    @model_validator(mode="after")
    def _task_type_fits(self) -> Self:
        # What validation chooses is chosen by the stage `kv_prefix`, in the sweep or not.
        starts = {
            name: start
            for name, start in self.initializations.items()
            if name in self.sweep.initializations or start.validates_cache
        }
        refuse_what_needs_a_decoder(
            self.task, self.prefix, self.sweep, starts, self.baselines, self.trained_baselines
        )
        refuse_other_prefixes(self.task, self.prefix, self.library)
        return self

    @model_validator(mode="after")
    def _kinds_are_used(self) -> Self:
        refuse_unused_kinds(self.prefix, self.train, self.task)
        refuse_further_rates(self.sweep, self.train)
        refuse_idle_rates(self.prefix, self.train, self.sweep, self.task)
        refuse_nothing_to_move(self.prefix, self.train)
        return self

    @model_validator(mode="after")
    def _trained_variants_exist(self) -> Self:
        refuse_unknown_variants(self.sweep, self.initializations)
        return self

    @model_validator(mode="after")
    def _test_unseen_exists(self) -> Self:
        refuse_missing_splits(self.data, self.evaluate, self.inspection, self.report)
        return self
