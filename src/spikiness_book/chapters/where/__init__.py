"""The chapter *where*."""
