"""Experiments: each a function that asks the lab for trials and looks at outcomes."""
