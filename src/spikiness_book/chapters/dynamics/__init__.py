"""The chapter *dynamics*."""
