"""Compares imgclassify with the programs one would write instead: `python -m benchmarks`, in a checkout."""
