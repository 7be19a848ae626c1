"""What every section of params.yaml is made of."""
