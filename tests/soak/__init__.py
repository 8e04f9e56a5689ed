"""The soak test: minutes of load, faults, disconnects and reloads for the gateway. ``make soak``."""
