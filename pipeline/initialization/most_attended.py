"""`most_attended`: the tokens of a text file that training inputs make use of."""

from typing import TYPE_CHECKING, Literal

from pipeline.initialization.context import StartContext
from pipeline.initialization.read_after_text import ReadAfterText
from pipeline.schema.section import Count

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix, PrefixModel


class MostAttended(ReadAfterText):
    """The cached tokens of a text file that training inputs attend to most."""

    type: Literal["most_attended"]
    inputs: Count = 16

    def start(self, context: StartContext) -> "KVPrefix":
        """The tokens that the training inputs attend to most, with the whole text before them."""
        from pipeline.prefix.starts.attended import picked

        with self.whole(context) as whole:
            return picked(whole, context.cached, self._places(whole, context))

    def tokens(self, context: StartContext) -> list[int]:
        """Those tokens themselves."""
        with self.whole(context) as whole:
            return [context.cached_tokens[place] for place in self._places(whole, context)]

    def _places(self, whole: "PrefixModel", context: StartContext) -> list[int]:
        """Where in the text the chosen tokens stand."""
        from pipeline.prefix.starts.attended import places_attended

        return places_attended(whole, context.cached, context.length, context.inputs(self.inputs))
