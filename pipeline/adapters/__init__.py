"""PEFT adapter folders that leave the comparison (export) or join it (import)."""
