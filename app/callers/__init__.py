"""The callers: who they are by their keys, and from which origins they may call."""
