"""What the checks of a row come to, in a word and what there is to know."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.census.attempts import Problem
from benchmarks.census.checks import Checked, Error
from benchmarks.census.expected import Expected

EXACT, CAVEAT, REFUSED = "exact", "exact with a caveat", "refused"
FAILED, NOT_MEASURED = "failed", "not measured"
WORDS = (EXACT, CAVEAT, REFUSED, FAILED, NOT_MEASURED)

TOLERANCE = 1e-4
"""Of a logit in float32."""
_SLOPE = 0.05


@dataclass(frozen=True)
class Verdict:
    """Of one side of a row.

    Attributes:
        word: one of `WORDS`.
        why: sentences, about what is not exact or why there is nothing.
        error: the largest of a logit for inputs of one length.
        padding: which batches are exact: `left`, `right` or `equal lengths`.
        packed: `exact`, `off`, or nothing where it was not asked.
    """

    word: str
    why: str = ""
    error: float | None = None
    padding: str = ""
    packed: str = ""


def judged(checked: Checked, expected: Expected) -> Verdict:
    """The verdict on this project. What fails is a wrong number or an error that is no refusal."""
    asked = (checked.start, checked.identity)
    problem = next((one for one in asked if isinstance(one, Problem)), None)
    if problem is not None:
        return Verdict(REFUSED if problem.refused else FAILED, problem.said)
    if checked.warned and not _exact(checked.identity):
        return Verdict(CAVEAT, f"a warning: {checked.warned}")
    failures, caveats = list(_failures(checked, expected)), list(_caveats(checked, expected))
    word = FAILED if failures else CAVEAT if caveats else EXACT
    notes = failures + caveats
    if isinstance(checked.gradient, list) and checked.gradient:
        notes += [] if _unreached(checked.gradient) in notes else [_unreached(checked.gradient)]
    if checked.why_not_packed:
        notes.append(f"packed rows are off: {checked.why_not_packed}")
    packed = "off" if checked.why_not_packed else "" if checked.packed is None else "exact"
    assert isinstance(checked.identity, float)
    return Verdict(word, "; ".join(notes), checked.identity, _padding(checked), packed)


def judged_peft(checked: Checked, expected: Expected) -> Verdict:
    """The verdict on PEFT, of which left padding alone may fail: most of its users pad right."""
    for problem in (checked.start, checked.identity):
        if isinstance(problem, Problem):
            return Verdict("error", problem.said)
    wrong = [
        what
        for what, error in (("logits", checked.identity), ("generation", checked.generation))
        if not _exact(error)
    ]
    quiet = checked.gradient
    if isinstance(quiet, Problem) or any(name.startswith("layer") for name in quiet):
        wrong.append("gradient")
    if wrong:
        return Verdict("wrong", ", ".join(wrong))
    left = [checked.padding.get("left"), checked.padded_generation]
    if any(error is not None and not _exact(error) for error in left):
        return Verdict("exact but left padding")
    return Verdict(EXACT)


def _exact(error: Error | None) -> bool:
    return isinstance(error, float) and error < TOLERANCE


def _failures(checked: Checked, expected: Expected) -> Iterable[str]:
    identity = checked.identity
    # An error below the tolerance says nothing where the text itself changes no more.
    if not _exact(identity) or not identity < 0.01 * expected.effect:  # type: ignore[operator]
        effect = f"where the text changes them by {expected.effect:.0e}"
        yield f"logits are off by {identity:.0e}, {effect}"
    for what, found, own in _compared(checked, expected):
        if _is_fault(found, own):
            yield _said(f"{what} is", found)
    if isinstance(checked.gradient, Problem) and not checked.gradient.refused:
        yield f"training: {checked.gradient.said}"
    if isinstance(checked.slope, Problem) or (checked.slope is not None and checked.slope > _SLOPE):
        yield _said("the gradient's slope is", checked.slope)
    if checked.packed is not None and not _exact(checked.packed):
        yield _said("packed rows are", checked.packed)
    if not _exact(checked.left_behind):
        yield _said("the model without its prefix is", checked.left_behind)


def _caveats(checked: Checked, expected: Expected) -> Iterable[str]:
    for what, found, own in _compared(checked, expected):
        if isinstance(found, Problem) and found.refused:
            does = "is exact" if _exact(own) else "is not exact either"
            yield f"{what}, in which the model itself {does}, is refused: {found.said}"
        elif found is not None and not _exact(found) and not _is_fault(found, own):
            yield f"{what} is not exact, as in the model itself"
    if isinstance(checked.gradient, Problem):
        if checked.gradient.refused:
            yield f"training is refused: {checked.gradient.said}"
    elif any(name.startswith("layer") for name in checked.gradient):
        yield _unreached(checked.gradient)


def _compared(checked: Checked, expected: Expected) -> Iterable[tuple[str, Error | None, Error]]:
    """What is asked of a prefix, what was found, and what was found of the model itself."""
    own = expected.own if isinstance(expected.own, Problem) else 0.0
    left = checked.padding.get("left")
    yield "generation", checked.generation, own
    yield "left padding", left, expected.left_padded
    if _exact(left):
        yield "generation after left padding", checked.padded_generation, expected.left_generated


def _is_fault(found: Error | None, own: Error) -> bool:
    """Whether a prefix does worse than the model itself, and does not say so."""
    if found is None or _exact(found) or _refused(found):
        return False
    return not isinstance(own, Problem) if isinstance(found, Problem) else _exact(own)


def _unreached(names: list[str]) -> str:
    return f"no gradient reaches {', '.join(names)}"


def _padding(checked: Checked) -> str:
    if not checked.padding:
        return ""
    sides = [side for side, error in checked.padding.items() if _exact(error)]
    return sides[0] if sides else "equal lengths"


def _refused(error: Error | None) -> bool:
    return isinstance(error, Problem) and error.refused


def _said(what: str, error: Error | None) -> str:
    """`what` with its verb: off by so much, or what was raised in the place of a number."""
    if isinstance(error, Problem):
        return f"{what.rpartition(' ')[0]}: {error.said}"
    return f"{what} off by {error:.0e}"
