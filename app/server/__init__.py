"""HTTP from callers: protocol, handlers, event streams, drain, workers."""
