"""What is compared, and its names: variants and baselines."""
