"""What became of each stage of a sweep, and its sentences."""

from dataclasses import dataclass, field

from pipeline.errors import PipelineError, StoppedError


@dataclass
class Outcome:
    """Stages by what became of them, each in the order in which it did."""

    unchanged: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """The sentence of each."""
    skipped: dict[str, str] = field(default_factory=dict)
    """The failed stage that each needs."""

    @property
    def ended(self) -> int:
        """Of the plan's stages, those with which nothing is to be done any more."""
        return sum(map(len, (self.unchanged, self.restored, self.ran, self.failed, self.skipped)))

    def sentence(self) -> str:
        """What a sweep came to that went well."""
        if not self.ran and not self.restored:
            return "everything is up to date: no stage has changed"
        counts = [f"{len(self.ran)} {_stages(self.ran)} ran"]
        if self.restored:
            counts.append(f"{len(self.restored)} came from the run-cache")
        if self.unchanged:
            counts.append(f"{len(self.unchanged)} had not changed")
        return ", ".join(counts)

    def raise_for(self, stages: int, signal_number: int | None) -> None:
        """Raises StoppedError after a signal, PipelineError where a stage failed.

        `stages` is the number of all in the plan.
        """
        if signal_number is not None and self.ended < stages:
            said = "".join(f"\n  {stage}: {why}" for stage, why in self.stopped.items())
            raise StoppedError(
                f"stopped with {self.ended} of {stages} stages done; "
                f"`python -m pipeline sweep` or `dvc repro` goes on from there{said}",
                signal_number,
            )
        if self.failed:
            lines = [f"{len(self.failed)} of {stages} stages failed"]
            lines += [f"  {stage}: {why}" for stage, why in self.failed.items()]
            if self.skipped:
                lines.append("skipped, since they need one that failed:")
                lines += [f"  {stage} (needs {cause})" for stage, cause in self.skipped.items()]
            raise PipelineError("\n".join(lines))


def _stages(names: list[str]) -> str:
    return "stage" if len(names) == 1 else "stages"
