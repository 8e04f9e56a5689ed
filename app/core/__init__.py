"""The words that all rooms share: no network, no settings."""
