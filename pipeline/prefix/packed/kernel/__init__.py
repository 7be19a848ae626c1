"""The CPU's own attention kernel, C++ that is compiled on first use."""
