"""The chapter *detection*."""
