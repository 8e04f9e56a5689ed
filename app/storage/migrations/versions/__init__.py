"""One module for each version of the ledger's file; its ``revision`` is the file's ``user_version`` in four digits."""
