"""imgclassify measured beside what else one would write: `python -m benchmarks`, from a checkout."""
