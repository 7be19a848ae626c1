"""Speed and memory against PEFT, measured side by side."""
