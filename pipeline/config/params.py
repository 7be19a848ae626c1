"""The whole of params.yaml as one schema, with the checks that span sections."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.baselines import UntrainedBaselines
from pipeline.config.checkpoints import CheckpointParams
from pipeline.config.data import CorpusData, DataParams, FileData
from pipeline.config.evaluate import EvaluateParams
from pipeline.config.hardware import HardwareParams
from pipeline.config.initializations import Initializations
from pipeline.config.inspection import InspectionParams
from pipeline.config.kinds import refuse_unused_kinds
from pipeline.config.kv_prefix import KVPrefixParams
from pipeline.config.machine import (
    refuse_attention_elsewhere,
    refuse_compiling_others,
    refuse_impossible_processes,
    refuse_two_places,
    refuse_unfit_for_quantized,
)
from pipeline.config.memory import MemoryParams
from pipeline.config.mlflow import MLflowParams
from pipeline.config.model import ModelParams
from pipeline.config.names import refuse_taken_names
from pipeline.config.prefix import PrefixParams
from pipeline.config.report import ReportParams
from pipeline.config.self_study import SelfStudies, asking_the_model, refuse_unknown_study
from pipeline.config.serving import ServingParams
from pipeline.config.sweep import SweepParams
from pipeline.config.task import TaskParams
from pipeline.config.taught import refuse_impossible_teachers
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
    # dvc.yaml has the same default, and of teachers.
    self_study: SelfStudies = Field(default_factory=dict)
    task: TaskParams
    initializations: Initializations
    sweep: SweepParams
    # No defaults for whole sections: DVC refuses a stage whose params are not in the file.
    kv_prefix: KVPrefixParams
    prefix: PrefixParams
    teachers: Teachers = Field(default_factory=dict)
    train: TrainParams
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
        for name in self.sweep.initializations:
            if name not in self.initializations:
                known = ", ".join(self.initializations)
                raise ValueError(
                    f"sweep.initializations: '{name}' is not defined under initializations; "
                    f"define it there or use one of: {known}"
                )
        return self

    @model_validator(mode="after")
    def _baselines_make_sense(self) -> Self:
        known = [name for name, start in self.initializations.items() if start.stands_in_context]
        for name in self.sweep.in_context:
            if name not in known:
                raise ValueError(
                    f"sweep.in_context: '{name}' is not an initialisation whose text can stand in "
                    f"the context; use one of: {', '.join(known) or 'none is defined'}"
                )
        for name in self.sweep.in_context:
            if f"in_context_{name}" in self.baselines:
                raise ValueError(
                    f"baselines.in_context_{name}: sweep.in_context gives rows of this name; "
                    "rename it"
                )
        for name in self.trained_baselines:
            if name in {*self.baselines, *(f"in_context_{n}" for n in self.sweep.in_context)}:
                raise ValueError(
                    f"trained_baselines.{name}: another baseline has this name; rename one of them"
                )
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_taken_names(self.baselines, self.initializations)
        return self

    @model_validator(mode="after")
    def _distractors_need_a_decoder(self) -> Self:
        count = self.prefix.distractors.count
        if count and self.task.type != "causal_lm":
            raise ValueError(
                f"prefix.distractors.count: {count} needs a decoder alone, and task.type is "
                f"{self.task.type}; set it to 0"
            )
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
        return self

    @model_validator(mode="after")
    def _train_sizes_exist(self) -> Self:
        most = self.data.max_examples.train
        largest = max(self.sweep.train_sizes, default=0)
        if most is not None and largest > most:
            raise ValueError(
                f"sweep.train_sizes: {largest} is above data.max_examples.train = {most}; raise "
                "that or lower the size"
            )
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
        refuse_impossible_teachers(self.teachers, self.train.objective, self.task)
        return self

    @model_validator(mode="after")
    def _suits_the_machine(self) -> Self:
        computing: dict[str, Compute] = {
            **{"kv_prefix": self.kv_prefix, "train": self.train, "evaluate": self.evaluate},
            **{f"teachers.{name}": teacher for name, teacher in self.teachers.items()},
            **asking_the_model(self.self_study),
        }
        refuse_two_places(self.model, computing)
        refuse_unfit_for_quantized(self.model, self.trained_baselines)
        refuse_impossible_processes(self.hardware, self.model, self.train)
        refuse_compiling_others(self.model, self.train)
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
        longest = max(self.sweep.lengths)
        for name in (*self.sweep.initializations, *self.sweep.in_context):
            self.initializations[name].check_lengths(name, longest, self.kv_prefix.max_length)
        shortest = min(self.sweep.lengths)
        if self.prefix.num_frozen_tokens >= shortest:
            raise ValueError(
                f"prefix.num_frozen_tokens: {self.prefix.num_frozen_tokens} leaves nothing to "
                f"train in a prefix of {shortest} virtual tokens; it must be below every length "
                "in sweep.lengths"
            )
        return self

    @model_validator(mode="after")
    def _task_type_fits(self) -> Self:
        kind = self.task.type
        if kind == "causal_lm" and self.prefix.parts not in (None, ["decoder"]):
            raise ValueError(
                f"prefix.parts: {self.prefix.parts} needs a model with an encoder, which "
                "task.type: causal_lm has not; use null, or another task.type"
            )
        if kind == "causal_lm":
            return self
        for name, baseline in self.baselines.items():
            if baseline.needs_causal_lm:
                raise ValueError(
                    f"baselines.{name}: {baseline.type} needs task.type: causal_lm; leave it out"
                )
        for name, trained in self.trained_baselines.items():
            if trained.needs_causal_lm:
                raise ValueError(
                    f"trained_baselines.{name}: {trained.type} needs task.type: causal_lm; "
                    "leave it out"
                )
        if self.sweep.in_context:
            raise ValueError(
                f"sweep.in_context: '{self.sweep.in_context[0]}' in the context needs task.type: "
                "causal_lm; set it to []"
            )
        for name in self.sweep.initializations:
            start = self.initializations[name]
            if start.needs_causal_lm:
                raise ValueError(f"initializations.{name}: {start.type} needs task.type: causal_lm")
        return self

    @model_validator(mode="after")
    def _kinds_are_used(self) -> Self:
        refuse_unused_kinds(self.prefix, self.train, self.task)
        return self

    @model_validator(mode="after")
    def _trained_variants_exist(self) -> Self:
        sweep = self.sweep
        trained = {
            f"data/train/len{length}-{name}-seed{seed}/prefix.safetensors"
            for length in sweep.lengths
            for name in sweep.initializations
            for seed in sweep.seeds
        }
        for name, start in self.initializations.items():
            start.check_path(name, trained)
        return self

    @model_validator(mode="after")
    def _test_unseen_exists(self) -> Self:
        files = getattr(self.data, "files", None) or getattr(self.data, "splits", None)
        wanted = {*self.evaluate.splits, self.report.split}
        if files is not None and files.test_unseen is None and "test_unseen" in wanted:
            where = "files" if self.data.source == "files" else "splits"
            raise ValueError(
                f"evaluate.splits: 'test_unseen' is listed, but data.{where}.test_unseen names no "
                "such split; name one or leave test_unseen out"
            )
        lacks = files is not None and files.test_unseen is None
        if lacks and self.inspection.split == "test_unseen":
            where = "files" if self.data.source == "files" else "splits"
            raise ValueError(
                f"inspection.split: 'test_unseen' is asked for, but data.{where}.test_unseen names "
                "no such split; name one or use validation or test"
            )
        if self.report.split not in self.evaluate.splits:
            raise ValueError(
                f"report.split: '{self.report.split}' is not in evaluate.splits = "
                f"{self.evaluate.splits}; use one that is evaluated"
            )
        return self
