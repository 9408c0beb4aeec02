"""Append-only migrations of the ledger; `versions/` holds one file per schema version."""
