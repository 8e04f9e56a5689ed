"""Types, errors and primitives that all packages share. No network, no settings."""
