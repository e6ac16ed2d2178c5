"""The chapter *generalization*."""
