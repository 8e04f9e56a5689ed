"""The callers: their authentication by key, and the origins that they may call from."""
