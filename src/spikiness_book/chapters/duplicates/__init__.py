"""The chapter *duplicates*."""
