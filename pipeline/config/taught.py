"""Teachers, and the objective that names one, against the task and each other."""

from collections.abc import Mapping

from pipeline.config.objective import DistillationObjective, Objective
from pipeline.config.task import TaskParams
from pipeline.config.teachers import TeacherParams


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
