"""Speed and memory beside PEFT, measured in one run (`make bench`)."""
