"""What limits prefix tuning beside LoRA: short trainings on WebNLG, many at once on a GPU."""
