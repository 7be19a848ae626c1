"""The KV caches that prefixes start from: the `kv_prefix` section."""

from pipeline.schema.compute import Compute, Dtype
from pipeline.schema.section import Count


class KVPrefixParams(Compute):
    """The KV caches of the text-based initialisations."""

    max_length: Count = 128
    dtype: Dtype = "float32"
