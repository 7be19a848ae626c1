"""One thin file a stage, named after it: parse params, call the library, write outs."""
