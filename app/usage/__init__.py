"""What a call cost: its record, and the ledger."""
