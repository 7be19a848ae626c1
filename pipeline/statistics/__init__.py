"""How sure scores and their differences are: intervals and paired p values, without the model."""
