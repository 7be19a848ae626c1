"""What measuring an example comes to."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.taught import Distance


@dataclass
class Outcome:
    """What one example came to: the summed loss of its target (nats), and the generated text.

    `decoding_seconds` is its share of the time in which its batch generated `generated_tokens`,
    the prefill not counted; of an encoder-decoder the encoder's pass is within it. `distance` is
    that from a teacher, where there is one.
    """

    loss: float
    text: str
    generated_tokens: int = 0
    decoding_seconds: float = 0.0
    distance: Distance | None = None


@dataclass
class Decoding:
    """The tokens that were generated of all examples, and the seconds that took."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Add what came of some examples."""
        self.tokens += sum(outcome.generated_tokens for outcome in outcomes)
        self.seconds += sum(outcome.decoding_seconds for outcome in outcomes)
