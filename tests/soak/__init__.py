"""The soak: the gateway under load, faults, callers who leave and reloads, for minutes. ``make soak``."""
