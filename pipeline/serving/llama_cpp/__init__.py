"""llama.cpp: a prefix as a sequence-state file of its own, and a proxy that guards its slots."""
