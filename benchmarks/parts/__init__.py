"""The parts of the benchmark, one file each: which programs it runs, and which ratios it draws from them."""
