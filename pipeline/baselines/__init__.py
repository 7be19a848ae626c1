"""What variants are measured against: a file for each kind, and a table of the untrained and one
of the trained.

Loading params.yaml imports this room, so torch, transformers, PEFT and `pipeline.prefix` are
imported where a model is made and no earlier. The models come in through `context`.
"""
