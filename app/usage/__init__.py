"""Usage and costs of calls: the record of each, and the ledger."""
