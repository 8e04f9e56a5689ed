"""The usage of calls: the record of each call, the ledger, and the reports on it."""
