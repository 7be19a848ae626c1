"""What the initialisations have in common that start from a prefix in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.initialization.context import CacheContext, StartContext
from pipeline.initialization.start import Cached, Start

if TYPE_CHECKING:
    from pipeline.prefix import KVPrefix


class SavedPrefixStart(Start):
    """Reads a prefix file, or a PEFT adapter folder, and cuts or stretches it to the length."""

    def cached(self, context: CacheContext) -> Cached:
        """The prefix as it was saved.

        Raises PrefixError when there is none, or it is not of this model.
        """
        kv = self._read(context)
        return Cached(kv, f"{len(kv)} virtual tokens of {self.path}")

    def start(self, context: StartContext) -> "KVPrefix":
        """Its first p virtual tokens, or each of them repeated evenly."""
        from pipeline.prefix.starts.reshaped import stretched_kv_prefix

        return stretched_kv_prefix(context.cached, context.length)

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
