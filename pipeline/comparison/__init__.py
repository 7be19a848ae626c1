"""All variants and baselines side by side: the summary table and the plots."""
