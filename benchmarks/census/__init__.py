"""Every causal model type that the installed transformers knows, tried with a prefix."""

import os

# A configuration that names a checkpoint or a kernel of the Hub must not wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
