"""Every causal model type that the installed transformers knows, tried with a prefix."""
