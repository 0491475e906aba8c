"""A dashboard of runs on Weights & Biases, defined in code."""
