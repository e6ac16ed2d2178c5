"""The chapter *sampling*."""
