"""Where a prefix starts: a file for each initialisation, and a table of them.

Loading params.yaml imports this room, so torch and transformers, and `pipeline.prefix` with them,
are imported where a prefix is made and no earlier. The frozen model, its tokenizer and the data
come in through `context`.
"""
