"""The command ``torii``."""
