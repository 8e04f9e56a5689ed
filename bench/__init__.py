"""Benchmark of Torii beside nginx and its peers. `make bench` runs it; docs/performance.md has the results."""
