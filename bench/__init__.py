"""The cost of Torii, beside nginx and its peers. `make bench` runs it; docs/performance.md carries the result."""
