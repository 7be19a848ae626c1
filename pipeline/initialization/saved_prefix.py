"""What the initialisations have in common that start from a prefix in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.start import Cached, Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class SavedPrefixStart(Start):
    """Reads a prefix file, or a PEFT adapter folder, and cuts or stretches it to the length."""

    def cached(self, context: CacheContext) -> Cached:
        """The prefix as it was saved.

        Raises PrefixError when there is none, and for an adapter that is not of this model;
        whether a file is, shows when a variant starts from it.
        """
        kv = self._read(context)
        return Cached(kv, f"{len(kv)} virtual tokens of {self.path}")

    def start(self, context: StartContext) -> "KVPrefix":
        """Its first p virtual tokens, or each of them repeated evenly; states at their own length.

        Raises PipelineError for states at another.
        """
        from pipeline.prefix.chosen import CHOSEN
        from pipeline.prefix.starts.reshaped import stretched_kv_prefix

        kv = context.cached
        if "state" in kv.kinds and not context.keeps_states:
            kv = kv.of_kinds(("attention",))
        if "state" in kv.kinds and len(kv) != context.length:
            raise PipelineError(
                f"initializations: {self.path} holds states, made with {len(kv)} virtual tokens, "
                f"which can be neither cut nor stretched to {context.length}; list it in a sweep "
                f"of lengths: [{len(kv)}], or set prefix.kinds: [attention]"
            )
        start = stretched_kv_prefix(kv, context.length)
        # Training has moved it from what it was chosen to start from.
        start.metadata.pop(CHOSEN, None)
        return start

    def origin(self) -> str:
        """The file, whose virtual tokens are no text's any more."""
        return f"virtual tokens of {self.path}"

    def _read(self, context: CacheContext) -> "KVPrefix":
        from pipeline.prefix import KVPrefix
        from pipeline.prefix.architecture.shapes import adapter_shapes
        from pipeline.prefix.files.peft_format import load_adapter

        path = Path(self.path)
        if not path.is_dir():
            return KVPrefix.load(path)
        return load_adapter(path, adapter_shapes(context.frozen_model))
