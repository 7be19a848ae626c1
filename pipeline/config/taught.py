"""Teachers, and the objective that names one, against the task and each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config.evaluate import NO_TEACHER, EvaluateParams
from pipeline.config.objective import DistillationObjective, Objective
from pipeline.config.task import TaskParams
from pipeline.config.teachers import TeacherParams
from pipeline.workspace import paths

_OF_SELF_STUDY = ("train", "validation")


def refuse_impossible_teachers(
    teachers: Mapping[str, TeacherParams], objective: Objective, task: TaskParams
) -> None:
    """Raise ValueError for a teacher that the task cannot have, or an objective without one."""
    for name, teacher in teachers.items():
        if task.type != "causal_lm":
            raise ValueError(
                f"teachers.{name}: a teacher reads its text before the input, which needs "
                "task.type: causal_lm; leave it out"
            )
        if teacher.role == "system" and not task.use_chat_template:
            raise ValueError(
                f"teachers.{name}.role: system is a turn of a chat, which needs "
                "task.use_chat_template: true; use role: user"
            )
        without = [split for split in teacher.splits if split not in _OF_SELF_STUDY]
        if without and Path(teacher.path).parent == paths.SELF_STUDY:
            raise ValueError(
                f"teachers.{name}.splits: '{without[0]}' is not written by self-study, so that its "
                f"questions have no chunk in '{teacher.path}'; leave it out, or name a text file"
            )
    if not isinstance(objective, DistillationObjective):
        return
    if objective.teacher not in teachers:
        known = ", ".join(teachers) or "none"
        raise ValueError(
            f"train.objective.teacher: '{objective.teacher}' is not under teachers; define it "
            f"there or use one of: {known}"
        )
    if objective.path != (folder := f"data/teachers/{objective.teacher}"):
        raise ValueError(
            f"train.objective.path: '{objective.path}' is not where this teacher's predictions "
            f"are; use {folder}"
        )
    _refuse_without(teachers, objective.teacher, ("train", "validation"), "train.objective.teacher")


def refuse_impossible_judges(
    teachers: Mapping[str, TeacherParams], evaluate: EvaluateParams
) -> None:
    """Raise ValueError for a teacher of evaluation that there is not, or without its splits."""
    if evaluate.taught is None:
        return
    folder, name = evaluate.taught.parent, evaluate.taught.name
    if folder != paths.TEACHERS or name not in teachers:
        known = ", ".join(f"{paths.TEACHERS}/{name}" for name in teachers) or "none is defined"
        raise ValueError(
            f"evaluate.teacher: '{evaluate.teacher}' is not where a teacher of teachers keeps its "
            f"predictions; use one of these: {known}; or {NO_TEACHER} for none"
        )
    _refuse_without(teachers, name, evaluate.measured_splits, "evaluate.teacher")


def _refuse_without(
    teachers: Mapping[str, TeacherParams], name: str, splits: Sequence[str], key: str
) -> None:
    lacking = [split for split in splits if split not in teachers[name].splits]
    if lacking:
        wanted = ", ".join(dict.fromkeys((*teachers[name].splits, *lacking)))
        raise ValueError(
            f"{key}: '{name}' keeps no predictions of {', '.join(lacking)}; set "
            f"teachers.{name}.splits to [{wanted}]"
        )
