"""Trainings that advance together on one frozen model, a step of each at a time.

Their examples share packed rows, so that each weight of the frozen model is read once for all of
them. Everything else is each training's own: prefix, optimizer, rate, order of the data, random
numbers, validation, checkpoint, and the end. One alone is computed as if there were no others.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import zip_longest

import torch

from pipeline.errors import DivergedError, PipelineError, StoppedError
from pipeline.progress.bar import Bar
from pipeline.training.compilation import uncompile_layers
from pipeline.training.interruption import Interruption, interruptible
from pipeline.training.joint_loss import Share, losses_together
from pipeline.training.left_out import Group
from pipeline.training.parts import is_packed, loss_of_groups, shares_of
from pipeline.training.step import Step
from pipeline.training.training import Training

Ended = Callable[[Training, PipelineError | None], None]
"""Is told of a training that has ended: well, or with the error that ended it."""

Part = tuple[Training, Step, list[Group]]
"""Examples of a training's step that are computed at once, by what they see of its prefix."""


def train_all(
    trainings: Sequence[Training], ended: Ended, max_tokens: int = 4096, bar: Bar | None = None
) -> None:
    """Train all of them to their ends, which come one by one: `ended` is told of each at once.

    One that diverges leaves the others alone. A signal ends all after the step at hand, each with
    its checkpoint. What `ended` raises ends them too.

    Args:
        trainings: of models on one frozen model.
        max_tokens: how many tokens of examples a row of several trainings holds at the most; a
            training's own part of a step is never split for it.
        bar: one that is shown already, and goes on; None for one of their own.
    """
    with ExitStack() as stack:
        for training in trainings:
            # The frozen model may serve another training of its process, or a measurement.
            stack.callback(uncompile_layers, training.model.frozen_model)
            stack.enter_context(training.keeping())
        active = [training for training in trainings if _has_begun(training, ended)]
        done = sum(training.result.step for training in active)
        asked = stack.enter_context(interruptible())
        if bar is None:
            total = sum(training.steps for training in active)
            bar = stack.enter_context(Bar(total, "train", "step", initial=done))
        elif done:
            bar.update(done)
        while active := [t for t in active if not _has_ended(t, asked, ended)]:
            steps = advance(active, ended, max_tokens)
            active = [training for training, _ in steps]
            notes = [_recorded(training, step) for training, step in steps]
            if steps:
                bar.update(len(steps), notes[0] if len(notes) == 1 else _note(steps))
            for training in active:
                with training.drawing():
                    training.keep()


def advance(
    trainings: Sequence[Training], ended: Ended, max_tokens: int
) -> list[tuple[Training, Step]]:
    """Take one optimizer step of each; returns those that are done, to be recorded.

    What diverges is left out, and `ended` told.
    """
    steps = [_chosen(training) for training in trainings]
    _compute(steps, max_tokens)
    done = [(training, step) for training, step in steps if _is_updated(training, step, ended)]
    _share_time([step for _, step in done])
    return done


def _has_begun(training: Training, ended: Ended) -> bool:
    began = time.perf_counter()
    try:
        with training.drawing():
            training.begin()
    except DivergedError as error:
        ended(training, error)
        return False
    training.seconds += time.perf_counter() - began
    return True


def _has_ended(training: Training, asked: Interruption, ended: Ended) -> bool:
    if training.is_finished:
        ended(training, None)
        return True
    try:
        with training.drawing():
            training.stop_if_asked(asked)
    except StoppedError as error:
        ended(training, error)
        return True
    return False


def _chosen(training: Training) -> tuple[Training, Step]:
    with training.drawing():
        return training, training.choose()


def _is_updated(training: Training, step: Step, ended: Ended) -> bool:
    try:
        with training.drawing():
            training.settle(step)
            training.update(step)
    except DivergedError as error:
        ended(training, error)
        return False
    return True


def _recorded(training: Training, step: Step) -> str:
    began = time.perf_counter()
    with training.drawing():
        words = training.record(step)
    training.seconds += step.seconds + time.perf_counter() - began
    return words


def _compute(steps: Sequence[tuple[Training, Step]], max_tokens: int) -> None:
    """Add up the gradient of each step, those of several trainings in one backward pass a row."""
    if len(steps) == 1:
        _compute_alone(*steps[0])
        return
    waiting = [[(t, step, groups) for groups in t.parts(step)] for t, step in steps]
    # The next part of each, so that each meets its own parts one after the other.
    for parts in zip_longest(*waiting):
        for row in _rows([part for part in parts if part is not None], max_tokens):
            _compute_row(row)


def _compute_alone(training: Training, step: Step) -> None:
    with training.drawing():
        training.compute(step)


def _rows(parts: Sequence[Part], max_tokens: int) -> list[list[Part]]:
    """Parts in rows of at most so many tokens; what is not packed stays alone."""
    alone = [[part] for part in parts if not _is_packed(part)]
    most = [training.model.most_packed for training, _, _ in parts]
    room = min([max_tokens, *(tokens for tokens in most if tokens is not None)])
    rows: list[list[Part]] = []
    used = 0
    for part in parts:
        if not _is_packed(part):
            continue
        tokens = sum(len(row["input_ids"]) for group in part[2] for row in group.examples)
        if rows and used + tokens <= room:
            rows[-1].append(part)
            used += tokens
        else:
            rows.append([part])
            used = tokens
    return alone + rows


def _is_packed(part: Part) -> bool:
    """A part is packed or padded as a whole."""
    training, _, groups = part
    return is_packed(training.loss_of, groups[0].examples[:1])


def _compute_row(row: Sequence[Part]) -> None:
    weights = [t.progress.loss_scale.value / step.targets for t, step, _ in row]
    if len(row) == 1:
        ((training, _, groups),) = row
        with training.drawing():
            losses = [loss_of_groups(training.loss_of, groups, weights[0])]
    else:
        shares = [
            _shares(t, groups, weight) for (t, _, groups), weight in zip(row, weights, strict=True)
        ]
        found = torch.stack(losses_together([share for own in shares for share in own]))
        losses = [own.sum() for own in found.split([len(own) for own in shares])]
    total = torch.stack(losses).sum()
    if total.requires_grad:
        total.backward()
    for (training, step, _), loss in zip(row, losses, strict=True):
        step.loss += loss.item() / training.progress.loss_scale.value


def _shares(training: Training, groups: Sequence[Group], weight: float) -> list[Share]:
    """Its groups with its prefix as the frozen model is given it: its own random numbers' draw."""
    with training.drawing():
        return shares_of(training.loss_of, groups, weight)


def _share_time(steps: Sequence[Step]) -> None:
    """To each its share by tokens, so that what they took adds up to what passed."""
    seconds = max((step.seconds for step in steps), default=0.0)
    tokens = sum(step.tokens for step in steps)
    for step in steps:
        step.seconds = seconds * step.tokens / tokens


def _note(steps: Sequence[tuple[Training, Step]]) -> str:
    """Steps taken together in words."""
    losses = [step.loss for _, step in steps]
    speed = sum(step.tokens for _, step in steps) / sum(step.seconds for _, step in steps)
    return (
        f"{len(steps)} variants, losses {min(losses):.3f} to {max(losses):.3f}, "
        f"{speed:.0f} tokens/s"
    )
