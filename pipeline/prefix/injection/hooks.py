"""What every way of bringing a prefix into a frozen model has in common: it owns hooks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch.utils.hooks import RemovableHandle
from transformers import Cache

from pipeline.prefix.injection.growing import GrowingCache


class Injection:
    """The hooks of one `PrefixModel` on its frozen model, which act while it is `active`.

    They are torch's own, so that several prefixes and the bare model can take turns. This class
    has none: it is the injection of an empty prefix.
    """

    through_cache = False
    """Whether the prefix comes in through the KV cache, which `generate` then has to be given."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._active = False

    def attach(self) -> None:
        """Add the hooks, which do nothing outside `active`; adding them twice adds them once."""
        if not self._handles:
            self._handles = list(self._hooks())

    def detach(self) -> None:
        """Remove every hook: the frozen model is as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the frozen model see what is injected."""
        before, self._active = self._active, True
        self.attach()
        try:
            yield
        finally:
            self._active = before

    def new_cache(self) -> Cache | None:
        """An empty growing cache; None where the model makes its own (an encoder-decoder)."""
        return GrowingCache()

    def recompute_context(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """`context_fn` of torch's checkpointing: the replay meets its own forward's prefix."""
        return nullcontext(), nullcontext()

    def _hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks on the frozen model."""
        return iter(())
