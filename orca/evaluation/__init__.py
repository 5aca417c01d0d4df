"""A model → benchmarks as the paper ran them → tables with intervals (section 5 of 2306.02707)."""
