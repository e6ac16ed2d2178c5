"""The chapter *hybrid*."""
